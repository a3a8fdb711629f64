"""What the doctor looks for in prepared rows and settings."""
