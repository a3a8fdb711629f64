"""The stages as Prefect tasks, all thin and built the same way (`stage.py`)."""
