"""Scheduling of tile operations inside one core: order, addresses and spills; joint model, fixed order, bounds."""
