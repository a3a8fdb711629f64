"""The store that a command was given, or its config names: checked before anything is looked up."""

from pathlib import Path

from alignment.errors import UsageError
from alignment.store.store import Store


def existing_store(folder: Path) -> Store:
    """The store in a folder that is there.

    Raises:
        UsageError: there is no such folder, or it is a file.
    """
    _refuse_file(folder, "--store FOLDER")
    if not folder.is_dir():
        raise UsageError(
            f"no store {folder}. Name its folder with --store, or make one with "
            "`sft-dpo run CONFIG`."
        )
    return Store(root=folder)


def configured_store(folder: Path) -> Store:
    """The store that a config names; it need not be there yet.

    Raises:
        UsageError: it is a file.
    """
    _refuse_file(folder, "--set store=FOLDER, or `store:` in the config")
    return Store(root=folder)


def _refuse_file(place: Path, how: str) -> None:
    if place.exists() and not place.is_dir():
        raise UsageError(f"the store {place} is a file, not a folder. Name another one: {how}.")
