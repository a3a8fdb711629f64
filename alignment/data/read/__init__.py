"""Reads raw rows from files, folders, URLs and hub data sets."""
