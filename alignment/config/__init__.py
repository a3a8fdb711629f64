"""The configuration of a run: its classes, its file, its schema."""
