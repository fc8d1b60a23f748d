"""Search for tile operations inside one core."""
