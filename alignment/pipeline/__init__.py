"""The steps of a run, their order, and what a run would do."""
