"""Reads Dockerfile and compose.yaml for tests."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SECRETS = {"POSTGRES_PASSWORD": "0123456789abcdef", "PREFECT_AUTH": "admin:fedcba9876543210"}
COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker/compose.yaml")


class Instruction(NamedTuple):
    """One instruction of the Dockerfile, with continued lines joined."""

    keyword: str
    text: str


def dockerfile() -> list[Instruction]:
    """The instructions in order, without comments."""
    lines = (ROOT / "docker/Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in joined]


def fill(value: str, given: dict[str, str]) -> str:
    """Substitute `${NAME:-default}` and `${NAME:?why}` like compose."""
    return re.sub(
        r"\$\{(\w+):([-?])([^}]*)\}", lambda m: given.get(m[1], m[3] if m[2] == "-" else ""), value
    )
