"""Evaluation of models: scores, replies, metrics, confidence intervals and the gate."""
