"""Memory and time that a run will take."""
