"""Loss terms: pure functions that return scalars and log nothing."""
