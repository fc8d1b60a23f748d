"""From a schedule to what people look at."""
