"""Environment variables that Prefect reads in a run from a shell; set here and nowhere else."""

import os
from collections.abc import Mapping

SERVER_TIMEOUT = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
"""Environment variable: seconds to wait for the temporary server to start."""


def quiet_prefect() -> None:
    """Configure Prefect for runs from a shell: no analytics, no scheduler logs, no prompts."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        # SQLite has to wait while gigabytes of weights are flushed to the same disk.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        SERVER_TIMEOUT: "120",  # Prefect's default of 20 s is too short on a busy machine
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def server_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of the temporary server: ours with these settings, without a user interface.

    Its log goes nowhere unless it fails, so errors are logged.
    """
    own = {
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    return {**os.environ, **own, **settings, "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"}
