"""The stages as Prefect tasks: thin, and all alike (`stage.py`)."""
