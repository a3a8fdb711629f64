"""Artifacts on disk: complete or absent, addressed by key, verified when opened."""
