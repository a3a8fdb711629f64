"""What Prefect finds in the environment, in a run from a shell. It is set here and nowhere else."""

import os

SERVER_PATIENCE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
"""Seconds that a run waits for the server it starts for itself."""


def quiet_prefect() -> None:
    """Keep a run from a shell to what the person asked for: no analytics, no scheduler chatter."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        # SQLite waits while gigabytes of weights are flushed to the disk it shares with them.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        SERVER_PATIENCE: "120",  # Prefect's own 20 are too few on a machine that is at work
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
