"""Kernels as loops: a body of tile operations on in-order pipes, and a modulo schedule of it."""
