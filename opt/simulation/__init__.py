"""A finer second opinion: the plan run tile by tile, with in-order pipes, double buffers and shared bandwidth."""

from opt.simulation.plan import Simulated, Simulation, simulate

__all__ = ["Simulated", "Simulation", "simulate"]
