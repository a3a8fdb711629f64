"""A converted configuration as a commented file."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from alignment.config.convert import axolotl, llama_factory, trl
from alignment.config.convert.draft import Draft, Stage
from alignment.config.convert.theirs import Values
from alignment.errors import ConfigError, UsageError

INLINE = ("model", "quantisation", "batch", "loss", "evaluation")
"""Sections that read better on one line."""
WIDTH = 110


def draft_of(path: Path, stage: Stage | None) -> Draft:
    """What a file of another trainer says, by the keys that only one of them has.

    Raises:
        ConfigError: it cannot be read.
        UsageError: it is of no known trainer, or trains what this project does not.
    """
    keys = _read(path)
    if any(key in keys for key in axolotl.MARKS):
        return axolotl.convert(keys)
    if any(key in keys for key in llama_factory.MARKS):
        return llama_factory.convert(keys)
    if any(key in keys for key in trl.MARKS):
        return trl.convert(keys, stage)
    raise UsageError(
        f"{path} is no file of LLaMA-Factory, Axolotl or TRL: it has none of "
        f"{', '.join((*llama_factory.MARKS[:2], *axolotl.MARKS[:1], *trl.MARKS[:2]))}"
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected `key: value` lines")
    return found


def as_text(draft: Draft, *, origin: str, schema: str, name: str, on_cpu: bool) -> str:
    """The configuration as YAML, with a line for each key that has no equal."""
    head = [
        f"yaml-language-server: $schema={schema}",
        f"Made by `sft-dpo init --from` of {origin}.",
        "Relative paths count from the folder in which a command runs.",
    ]
    if draft.notes:
        head += ["Without an equal, or not quite:", *(f"  {note}" for note in draft.notes)]
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = WIDTH
    yaml.representer.add_representer(type(None), _null)
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(_ordered({"name": name, "store": "runs"} | draft.config(on_cpu=on_cpu)), stream)
    return "".join(f"# {line}\n" for line in head) + stream.getvalue()


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _ordered(values: Values) -> CommentedMap:
    made = CommentedMap()
    for key, value in values.items():
        made[key] = _node(value)
        if key in INLINE and isinstance(made[key], CommentedMap):
            made[key].fa.set_flow_style()
    return made


def _node(value: Any) -> Any:
    if isinstance(value, dict):
        return _ordered(value)
    if isinstance(value, list):
        made = CommentedSeq(map(_node, value))
        if all(isinstance(one, str) for one in value):
            made.fa.set_flow_style()
        return made
    return value
