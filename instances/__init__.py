"""The problem and its answer as data, and everything that makes instances."""
