"""One file per mathematical model: variables, constraints, objective, and the way back to a schedule."""
