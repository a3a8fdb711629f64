"""Uploads a folder to a Hugging Face hub, through its own client."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from httpx import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from alignment.errors import UsageError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
"""Weights that run code when they are opened; none is ever uploaded."""


def check_upload(to: str, *, public: bool) -> None:
    """Ask the hub, before anything is made, whether an upload would show more than was asked for.

    Raises:
        UsageError: the repository is there and public; or the hub refuses, or cannot be reached.
    """
    with _in_one_line(to):
        if not public and _is_public(to):
            raise UsageError(f"{to} is there and public. Add --public, or name another one.")


def upload(
    folder: Path, to: str, *, public: bool, leave: Sequence[str] = (), message: str = ""
) -> str:
    """Upload a folder as one commit, to a new repository or an existing one.

    The token is the one in the environment variable HF_TOKEN, which the client reads itself.

    Args:
        folder: what to upload.
        to: repository, organisation/name.
        public: whether everyone may see a new one.
        leave: names of files that stay here.
        message: what the commit is called.

    Returns:
        A sentence that says where it is.

    Raises:
        UsageError: the hub refuses, or cannot be reached.
    """
    api = HfApi()
    with _in_one_line(to):
        api.create_repo(to, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=to,
            folder_path=folder,
            ignore_patterns=[*leave, *PICKLES],
            commit_message=message or "Upload",
        )
    return f"uploaded: {done.commit_url}"


def _is_public(to: str) -> bool:
    try:
        return not HfApi().model_info(to).private
    except RepositoryNotFoundError:
        return False


@contextmanager
def _in_one_line(to: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"--to {to!r} is no name of a repository: {error}") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, HTTPError, OSError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UsageError(
            f"{to} was not uploaded: {reason}. Check that HF_TOKEN may write there, and that the "
            "hub can be reached; then run the same command again"
        ) from error
