"""What notebooks and scripts use, see docs/python.md; `alignment` offers it under its own name."""
