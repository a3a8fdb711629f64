"""The checks on prepared rows and settings."""
