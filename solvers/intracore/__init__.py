"""Solvers of tile operations inside one core."""
