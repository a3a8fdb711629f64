"""Digests of files, and records that contain their own, so that a single flipped bit is detected.

A manifest holds the digests of all other files, and a ledger entry has no other file beside it, so
both need a digest of their own.
"""

import hashlib
from pathlib import Path

from alignment.records.base import Frozen
from alignment.records.refs import FileDigest

_DIGEST_LINE, _ZEROS = b',\n "digest": "%b"\n}\n', b"0" * 64
_LENGTH = len(_DIGEST_LINE % _ZEROS)


def with_digest(record: Frozen, *, indent: int | None = 1) -> bytes:
    """A record as JSON whose last key, `digest`, is the sha256 of all bytes before it."""
    body = record.model_dump_json(indent=indent).removesuffix("}").removesuffix("\n").encode()
    return body + _DIGEST_LINE % hashlib.sha256(body).hexdigest().encode()


def verified(content: bytes) -> bytes:
    """Check the digest of a record and return its JSON without it.

    JSON without a digest is returned unchanged: old manifests have none.

    Raises:
        ValueError: the bytes do not match the digest.
    """
    if not content[-_LENGTH:].startswith(_DIGEST_LINE.partition(b"%")[0]):
        return content
    return checked(content)


def checked(content: bytes) -> bytes:
    """Like `verified`, for records that always have a digest.

    Raises:
        ValueError: the bytes do not match the digest, or there is none.
    """
    body, digest_line = content[:-_LENGTH], content[-_LENGTH:]
    if digest_line != _DIGEST_LINE % hashlib.sha256(body).hexdigest().encode():
        raise ValueError("the bytes do not match their digest")
    return body + b"\n}"


def file_sha256(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(folder: Path, path: Path) -> FileDigest:
    """What is to be known of a file in a folder."""
    return FileDigest(
        path=path.relative_to(folder).as_posix(),
        size=path.stat().st_size,
        sha256=file_sha256(path),
    )
