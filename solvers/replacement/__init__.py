"""Solvers of tensor replacement: policies as practice has them, and the exact search with its bound."""

from solvers.replacement.exact import solve_exactly
from solvers.replacement.policies import POLICIES, run_policy

__all__ = ["POLICIES", "run_policy", "solve_exactly"]
