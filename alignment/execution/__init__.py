"""Runs steps, each in its own process, and records what ran."""
