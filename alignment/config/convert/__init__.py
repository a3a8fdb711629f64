"""Configurations of other trainers as one of ours: what is equal, and what has no equal by name."""
