"""One interface, and the searches behind it."""
