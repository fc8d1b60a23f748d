"""Graph scheduling on a two-level memory: what a group of operators costs, and models that choose among groups."""
