"""What a compiler takes from a schedule: the plan, and files in the terms of the stacks that carry it out."""

from opt.plans.build import build_plan

__all__ = ["build_plan"]
