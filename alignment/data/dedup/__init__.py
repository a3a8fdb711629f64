"""Rows compared with each other, with earlier sets and with evaluation prompts."""
