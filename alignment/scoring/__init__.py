"""Log-probabilities under a model: what training, evaluation and export share."""
