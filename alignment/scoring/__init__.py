"""Log-probs under a model, packed batches and memory budgets: shared by training and evaluation."""
