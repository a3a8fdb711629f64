"""All errors that a user can see, as one tree.

    AlignmentError          the run failed                                    exit code 1
    ├── UsageError          the user can fix it and run again                 exit code 2
    │   ├── ConfigError     a config file, a key in it or a `--set`
    │   ├── DataError       a data source, or too few rows after filtering
    │   ├── ModelError      a base model, adapter or tokenizer that cannot be opened
    │   ├── DeviceError     a machine without the GPU that the config asks for
    │   ├── StorageError    a folder that cannot be written, a full disk
    │   ├── EvidenceError   the evidence of a verdict that no longer shows it
    │   └── LaterVersion    something in the store that a later version wrote
    ├── ArtifactError       an artifact in the store does not match its manifest
    ├── TrainingError       a training run that must not continue
    ├── Interrupted         stopped from outside; the same command resumes    exit code 75
    └── Overtaken           another run wrote first; run the command again    exit code 75

A message says what is wrong, where, and what to do. Errors cross process boundaries, so each takes
a single string and can be pickled. Bugs in this package are `assert`s, not one of these.
"""

import re

from alignment.urls import bare_urls

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys or cannot show: controls, changes of direction, half a pair."""


def printable(text: str) -> str:
    r"""Text for a terminal or a log: characters that it would obey are shown as \x1b; others stay.

    Names of files, replies of models and rows come from others. Line breaks and tabs stay.
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(error: BaseException) -> str:
    """The message of an error, without its line breaks and not too long."""
    return " ".join(str(error).split())[:200]


class AlignmentError(Exception):
    """The run failed for a reason this package understands."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(bare_urls(message)))


class UsageError(AlignmentError):
    """The user can fix this and run again."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A config file, a key in it or an override is wrong."""


class DataError(UsageError, ValueError):
    """A data source cannot be read, or too few rows are left after filtering."""


class ModelError(UsageError, ValueError):
    """A base model, adapter or tokenizer cannot be opened."""


class DeviceError(UsageError):
    """The machine has no usable GPU, and the config asks for one."""


class StorageError(UsageError, OSError):
    """A folder cannot be written, or the disk is full."""


class EvidenceError(UsageError):
    """The evidence of a verdict was changed, or the rows, models or config that it is about."""


class LaterVersion(UsageError):
    """A later version of this package wrote it; nothing is damaged."""


class ArtifactError(AlignmentError):
    """An artifact in the store does not match its manifest."""


class TrainingError(AlignmentError):
    """A training run that must not continue: a wrong reference model, a loss that is NaN."""


class Interrupted(AlignmentError):
    """Stopped from outside in the middle of a stage; the same command resumes from there."""

    exit_code = 75


class Overtaken(AlignmentError):
    """Another run wrote to the same line of rounds first; read the line again and retry."""

    exit_code = 75


ERRORS: dict[str, type[AlignmentError]] = {
    name: kind
    for name, kind in tuple(globals().items())
    if isinstance(kind, type) and issubclass(kind, AlignmentError)
}
"""Class by name, to rebuild an error that a child process reported."""
