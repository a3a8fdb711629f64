"""Answers of a model to prompts, greedy or sampled, as fast as the device can write them."""
