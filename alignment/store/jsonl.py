"""Reads and writes records as JSON Lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

RowT = TypeVar("RowT", bound=BaseModel)


def read_rows(path: Path, model: type[RowT]) -> Iterator[RowT]:
    """The validated rows of a JSON Lines file."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield model.model_validate_json(line)


def as_line(row: BaseModel) -> bytes:
    """One record as a line of JSON."""
    return row.model_dump_json().encode() + b"\n"
