"""A trained adapter becomes the next stage's model, or a folder for other programs."""
