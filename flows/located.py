"""Errors about a file or model, with the line of the config that names it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alignment.config.file import place_of_path
from alignment.errors import DataError, ModelError


@contextmanager
def naming_the_line(config: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Within the block, an error about data or a model says where the config names them."""
    try:
        yield
    except (DataError, ModelError) as error:
        place = place_of_path(config, overrides, str(error))
        if place is None:
            raise
        raise type(error)(f"{place}: {error}") from error
