"""Environment variables that Prefect reads in what a shell starts; set here and nowhere else."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

SERVER_TIMEOUT = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
"""Environment variable: seconds to wait for the temporary server to start."""
PATIENCE = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
}
"""SQLite has to wait while gigabytes of weights are flushed to the same disk."""
SERVER = re.compile(r"\bapi\b|api_url", re.IGNORECASE)
"""How files name the address of a server: PREFECT_API_URL, or the key or table `api`."""


def quiet_prefect() -> None:
    """Configure Prefect for runs from a shell: no analytics, no scheduler logs, no prompts."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        SERVER_TIMEOUT: "120",  # Prefect's default of 20 s is too short on a busy machine
    }
    for name, value in (defaults | PATIENCE).items():
        os.environ.setdefault(name, value)


def server_here(port: int) -> None:
    """Configure the server that this process becomes: on this machine only, without telemetry."""
    address = f"http://127.0.0.1:{port}"
    os.environ["PREFECT_API_URL"] = os.environ["PREFECT_SERVER_UI_API_URL"] = f"{address}/api"
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "true",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # a restart would lose leases held in memory, and running work would be killed for it
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "DO_NOT_TRACK": "1",
    }
    for name, value in (defaults | PATIENCE).items():
        os.environ.setdefault(name, value)


def may_have_server() -> bool:
    """Whether a server seems to be configured, in the environment or in a file that Prefect reads.

    Prefect itself takes a second to say, so a mention is enough here.
    """
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_PROFILE"):
        return True
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    files = (profiles, *map(Path, (".env", "prefect.toml", "pyproject.toml")))
    return any(map(_mentions_a_server, files))


def _mentions_a_server(file: Path) -> bool:
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return False
    return SERVER.search(text) is not None


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
