"""Artifacts on disk: whole or absent, addressed by key, checked when opened."""
