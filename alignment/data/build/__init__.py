"""Builds a prepared set from raw rows, and accounts for every row."""
