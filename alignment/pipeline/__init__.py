"""The steps of a run, their order, and the plan of what a run would do."""
