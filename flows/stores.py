"""The store that a command was given, or its config names: checked before anything is looked up."""

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UsageError
from alignment.store.places import connect
from alignment.store.store import Store

if TYPE_CHECKING:  # a command that only looks at a store loads no settings
    from alignment.config.pipeline import PipelineConfig


def existing_store(folder: Path) -> Store:
    """The store in a folder that is there, or in the bucket of which it is a working copy.

    Raises:
        UsageError: there is no such folder, or it is a file.
        StorageError, Interrupted: its bucket cannot be used, or not be reached.
    """
    _refuse_file(folder, "--store FOLDER")
    if not folder.is_dir():
        raise UsageError(
            f"no store {folder}. Name its folder with --store, or make one with "
            "`sft-dpo run CONFIG`."
        )
    return _connected(Store(root=folder))


def configured_store(settings: "PipelineConfig") -> Store:
    """The store that a config names; a folder need not be there yet.

    Raises:
        UsageError: it is a file.
        StorageError, Interrupted: its bucket cannot be used, or not be reached.
    """
    store = settings.open_store()
    _refuse_file(store.root, "--set store=FOLDER, or `store:` in the config")
    return _connected(store)


def _connected(store: Store) -> Store:
    connect(store)
    return store


def _refuse_file(place: Path, how: str) -> None:
    if place.exists() and not place.is_dir():
        raise UsageError(f"the store {place} is a file, not a folder. Name another one: {how}.")
