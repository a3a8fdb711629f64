"""Records on disk that carry their own digest, so that one flipped bit is noticed.

What holds a folder's digests (a manifest) or stands alone (an entry of a ledger) has nothing else
that would vouch for it.
"""

import hashlib

from alignment.records import Frozen

_SEAL, _NONE = b',\n "digest": "%b"\n}\n', b"0" * 64


def with_digest(record: Frozen) -> bytes:
    """A record as JSON whose last key, `digest`, is the sha256 of all bytes before it."""
    body = record.model_dump_json(indent=1).removesuffix("\n}").encode()
    return body + _SEAL % hashlib.sha256(body).hexdigest().encode()


def verified(content: bytes) -> bytes:
    """The JSON of a sealed record without its seal; JSON that never had one as it is.

    Raises:
        ValueError: the bytes are not those that were sealed.
    """
    body, seal = content[: -len(_SEAL % _NONE)], content[-len(_SEAL % _NONE) :]
    if not seal.startswith(_SEAL.partition(b"%")[0]):
        return content
    if seal != _SEAL % hashlib.sha256(body).hexdigest().encode():
        raise ValueError("the bytes do not match their digest")
    return body + b"\n}"
