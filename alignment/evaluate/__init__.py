"""Measuring a model: log-probs, replies, metrics, intervals, hand-over."""
