"""Training, data, evaluation and artifacts; knows nothing of a scheduler."""
