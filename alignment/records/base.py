"""The base class of all records and configs, and digests of what they hold."""

import hashlib
import json
from pathlib import PurePosixPath
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

Json = dict[str, object]


class Frozen(BaseModel):
    """Base class of configs and records: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Output = TypeVar("Output", bound=Frozen)
"""The type of record that a stage produces."""


def digest_of(value: object) -> str:
    """The sha256 (64 hex digits) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def inside(path: str) -> str:
    """The path unchanged, after checking that it stays inside the folder it will be joined to.

    Raises:
        ValueError: it is absolute, or contains `..`.
    """
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"{path!r} leads outside the folder that it belongs to")
    return path
