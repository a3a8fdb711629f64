"""Base models on this machine: fetching a hub's repository into the local cache, finding it."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HFValidationError as InvalidId

from alignment.errors import ModelError
from alignment.models.folder import digest_of_files, weight_files
from alignment.records.refs import BaseRef
from alignment.store.store import Store


def fetch_snapshot(repository: str, revision: str, files: Sequence[str]) -> Path:
    """The folder of a repository's files at a revision; missing files are downloaded.

    Args:
        repository: id of the repository, owner/name.
        revision: branch, tag or commit.
        files: patterns of the files to download.

    Raises:
        ModelError: the repository does not exist, or the hub cannot be reached.
    """
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except (RepositoryNotFoundError, RevisionNotFoundError, InvalidId) as error:
        raise ModelError(
            f"no model {repository!r} at revision {revision!r} on the hub. Check the "
            "spelling of model.id, log in if it is gated, or use model: {name: folder}."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"model {repository!r} is not in the local cache and the hub cannot be reached. "
            "Connect once to download it, or use model: {name: folder, path: ...}."
        ) from error


def base_folder(base: BaseRef, store: Store) -> Path:
    """The local folder of a base model; a hub model must already be in the hub's cache.

    Raises:
        ModelError: it is a folder of the user, whose weights are no longer those of the reference.
    """
    if base.uri.startswith("hub:"):
        return Path(snapshot_download(base.uri[4:], revision=base.revision, local_files_only=True))
    folder = store.path(base.uri)
    if base.uri.startswith("folder:") and base.sha256:  # before it is described it has no digest
        check_unchanged(folder, weight_files(folder), base.sha256)
    return folder


def check_unchanged(folder: Path, files: Sequence[Path], expected: str) -> None:
    """Refuse a folder of the user some of whose files were changed since it was described.

    Raises:
        ModelError: they are gone, or do not have the digest that the reference holds.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} does not exist. Restore the folder: this model is made from it")
    if digest_of_files(files) != expected:
        raise ModelError(
            f"{folder} has changed: its files are not those that this model was made from. "
            "Restore them, or give the new model a folder of its own and a new run or line."
        )
