"""Rules that a single row must pass, each with a named reason."""
