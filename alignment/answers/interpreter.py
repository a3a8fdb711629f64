"""Asks an interpreter whether it has vLLM, without importing it."""

import subprocess
from pathlib import Path

from alignment.answers.settings import AnyEngine, Vllm
from alignment.errors import ConfigError

LOOK = "import importlib.util, sys; sys.exit(3 * (importlib.util.find_spec('vllm') is None))"
HOW = (
    "Make an environment for it (python3 -m venv DIR && DIR/bin/pip install vllm) and name "
    "DIR/bin/python, or set engine: {name: auto}."
)


def vllm_obstacle(python: Path) -> str | None:
    """Why a program is no interpreter with vLLM; None if it is one."""
    command = [str(python), "-I", "-c", LOOK]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"engine.python: {python} does not run as an interpreter ({error})"
    if not done.returncode:
        return None
    lacks = "has no vLLM" if done.returncode == 3 else "is no Python interpreter"
    return f"engine.python: {python} {lacks}"


def engine_obstacle(engine: AnyEngine) -> str | None:
    """Why this machine cannot run an engine; None if it can."""
    return vllm_obstacle(engine.python) if isinstance(engine, Vllm) else None


def check_vllm(python: Path) -> None:
    """Refuse a program that is no interpreter with vLLM.

    Raises:
        ConfigError: why it is none, and how to make one.
    """
    if obstacle := vllm_obstacle(python):
        raise ConfigError(f"{obstacle}. {HOW}")
