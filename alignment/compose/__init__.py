"""Turns trained adapters into the next stage's model, or into a folder for other programs."""
