"""A model's own answers as candidates for preference pairs: asked, labelled, paired."""
