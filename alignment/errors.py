"""Every error a person may meet, as one tree.

    AlignmentError          the run failed                                    exit code 1
    ├── UsageError          the person can mend it before running again       exit code 2
    │   ├── ConfigError     a config file, a key in it or a `--set`
    │   ├── DataError       a data source or what is left of it after cleaning
    │   ├── ModelError      a base model, adapter or tokenizer that cannot be opened
    │   └── StorageError    a folder that cannot be written, a full disk
    ├── ArtifactError       something in the store is not what its manifest says
    ├── TrainingError       a training run that must not go on
    ├── Interrupted         stopped from outside; the same command continues  exit code 75
    └── Overtaken           another run was faster; the same command goes on  exit code 75

A message says what is wrong, where, and what to do. Errors cross process boundaries, so each
is built from one string and stays picklable. Our own bugs are `assert`s, not these.
"""


class AlignmentError(Exception):
    """The run failed for a reason this package understands."""

    exit_code = 1


class UsageError(AlignmentError):
    """The person who started the run can mend this."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A config file, a key in it or an override is wrong."""


class DataError(UsageError, ValueError):
    """A data source cannot be read, or too little is left after cleaning."""


class ModelError(UsageError, ValueError):
    """A base model, adapter or tokenizer cannot be opened."""


class StorageError(UsageError, OSError):
    """A folder cannot be written, or the disk is full."""


class ArtifactError(AlignmentError):
    """An artifact in the store is not what its manifest says."""


class TrainingError(AlignmentError):
    """A training run that must not go on: a wrong reference, a loss that is not a number."""


class Interrupted(AlignmentError):
    """Stopped from outside in the middle of a stage; the same command continues from there."""

    exit_code = 75


class Overtaken(AlignmentError):
    """Another run has written to the same line of rounds first; look again and go on."""

    exit_code = 75


ERRORS: dict[str, type[AlignmentError]] = {
    name: kind
    for name, kind in tuple(globals().items())
    if isinstance(kind, type) and issubclass(kind, AlignmentError)
}
"""Name to class, for errors that come back from a child process."""
