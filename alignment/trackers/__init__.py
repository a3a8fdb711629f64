"""Experiment trackers: each follows a run from a process of its own, and can never fail it."""
