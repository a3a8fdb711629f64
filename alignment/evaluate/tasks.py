"""The tasks that lm-eval knows: whether one exists, and what identifies it.

Nothing is run or downloaded here, so that a name that does not exist is refused before any work.
lm-eval reads 14,000 files to list its own tasks, which takes ten seconds; a folder of tasks of your
own is read first. Not here: running a task (`harness.py`).
"""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from alignment.errors import ConfigError
from alignment.evaluate.settings import HarnessConfig
from alignment.extras import require
from alignment.records.base import digest_of
from alignment.store.checksum import file_sha256

EXTRA = "lm-eval"


def harness_version() -> str:
    """The installed version of lm-eval.

    Raises:
        ConfigError: it is not installed.
    """
    require("lm_eval", extra=EXTRA)
    return version("lm_eval")


def identity_of(config: HarnessConfig, task: str) -> str:
    """What decides the results of a task, apart from the model: its parts, versions and limit.

    Tasks of your own also count by the text of their files, of those that these include, and of
    the data files that they name.

    Raises:
        ConfigError: lm-eval is not installed, or knows no such task.
    """
    index = manager_of(config, task).task_index
    parts = [_identity(index[name]) for name in _leaves(index, task)]
    return digest_of([harness_version(), task, sorted(parts), config.limit, config.few_shot])


def digest_of_tasks(config: HarnessConfig) -> str:
    """Identifies the results of all configured tasks in cache keys.

    Raises:
        ConfigError: lm-eval is not installed, or knows no such task.
    """
    return digest_of([identity_of(config, task) for task in config.tasks])


def manager_of(config: HarnessConfig, task: str) -> Any:
    """The `TaskManager` of lm-eval that knows a task.

    Raises:
        ConfigError: lm-eval is not installed, or knows no such task.
    """
    own = _own(config.include) if config.include is not None else None
    if own is not None and task in own.task_index:
        return own
    if task in _builtin().task_index:
        return _builtin()
    names = [*_builtin().task_index, *(own.task_index if own is not None else ())]
    nearest = get_close_matches(task, names, n=3)
    hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
    where = f", and none of its files in {config.include} defines it" if own is not None else ""
    raise ConfigError(
        f"evaluation.harness.tasks: lm-eval {harness_version()} knows no task {task!r}{where}."
        f"{hint} `lm-eval ls tasks` lists them."
    )


@cache
def _builtin() -> Any:
    return require("lm_eval.tasks", extra=EXTRA).TaskManager()


def _own(folder: Path) -> Any:
    if not folder.is_dir():
        raise ConfigError(f"evaluation.harness.include: {folder} is not a folder")
    manager = require("lm_eval.tasks", extra=EXTRA).TaskManager
    return manager(include_path=str(folder), include_defaults=False)


def _leaves(index: dict[str, Any], name: str) -> Iterator[str]:
    """The tasks of a group or tag, or the task itself."""
    entry = index[name]
    members = [*entry.tags] if entry.kind.name == "TAG" else []
    if entry.kind.name == "GROUP":
        listed = (entry.cfg or {}).get("task") or []
        members = [m if isinstance(m, str) else m.get("task") or m.get("group") for m in listed]
    for member in members:
        if member in index and member != name:
            yield from _leaves(index, member)
    if not members:
        yield name


def _identity(entry: Any) -> list[object]:
    """A task's name and version, and the digests of its files unless lm-eval brings them."""
    metadata = (entry.cfg or {}).get("metadata") or {}
    files: list[Path] = []
    if entry.yaml_path is not None and not _is_builtin(entry.yaml_path):
        files = [*_sources(entry.yaml_path), *data_files(entry.cfg)]
    return [entry.name, str(metadata.get("version")), [file_sha256(file) for file in files]]


def _sources(file: Path) -> Iterator[Path]:
    """A task's file, the code beside it, and the same of each file that it includes."""
    yield from (file, *sorted(file.parent.glob("*.py")))
    written = YAML(typ="rt").load(file)  # this kind of loader reads `!function` as a text
    included = written.get("include") or () if isinstance(written, dict) else ()
    for name in [included] if isinstance(included, str) else included:
        if (path := file.parent / name).is_file():
            yield from _sources(path)


def _is_builtin(path: Path) -> bool:
    return path.is_relative_to(Path(require("lm_eval", extra=EXTRA).__file__).parent)


def data_files(cfg: dict[str, Any] | None) -> Iterator[Path]:
    """The local data files that a task's configuration names, alone, in lists or by a pattern."""
    named = ((cfg or {}).get("dataset_kwargs") or {}).get("data_files") or {}
    for files in named.values() if isinstance(named, dict) else [named]:
        for file in files if isinstance(files, list) else [files]:
            if isinstance(file, str):
                # Both: a name may hold the signs of a pattern.
                named_so = {file, *glob(file, recursive=True)}  # noqa: PTH207 - absolute ones too
                yield from sorted(path for path in map(Path, named_so) if path.is_file())
