"""Loads a configuration from a YAML file and `--set` overrides, and explains every mistake in them.

An error names the file, line and key, or the override that caused it, and suggests the nearest
valid name. Not here: the fields of a configuration (`pipeline.py`).
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from alignment.config.pipeline import PipelineConfig
from alignment.data.read.files import SecretFound
from alignment.errors import ConfigError
from alignment.urls import holds_more

DISCRIMINATORS = ("name", "kind")
"""The fields that say which member of a union is meant."""
UNREADABLE = (YAMLError, ValueError, RecursionError)
"""What the parser raises, also for control characters, a 40th of May and deep nesting."""


def load(path: Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The configuration of a YAML file with overrides applied.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value`; numbers select list items, the value is YAML.

    Raises:
        ConfigError: all mistakes at once, each with file, line, key and a suggestion.
    """
    marked = _read(path)
    tree = _plain(marked)
    for override in overrides:
        _apply(tree, override)
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        problems = [
            _explain(problem, _locate(tree, marked, _place(problem)), path, overrides)
            for problem in _causes(error.errors())
        ]
        raise ConfigError("\n".join(problems)) from error


# --- reading ----------------------------------------------------------------------------------


def _read(path: Path) -> Any:
    """Parse the file into a tree whose nodes know their line numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.stem, _yaml_names(path.parent), n=3, cutoff=0.4)
        hint = (
            f"Did you mean {', '.join(f'{name}.yaml' for name in near)}?"
            if near
            else "A relative path starts at the current directory; `sft-dpo init` writes one."
        )
        raise ConfigError(f"no config file {path}. {hint}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder; name a YAML file in it") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text in UTF-8; name a YAML file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except UNREADABLE as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else "a list" if isinstance(tree, list) else "plain text"
        raise ConfigError(f"{path}: expected `key: value` lines, found {found}")
    return tree


def _yaml_names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _plain(node: Any) -> Any:
    """Copy the tree into plain Python types, which is what pydantic validates.

    Nodes shared through a YAML anchor become separate copies, so an override of one place does not
    change the others.
    """
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        yield from chain.from_iterable(map(_texts, inner))


def _apply(tree: Any, override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override!r}: expected dotted.key=value")
    try:
        value = _plain(YAML(typ="safe").load(text))
    except UNREADABLE as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from error
    if any(map(holds_more, _texts(value))):
        raise ConfigError(
            f"--set {dotted}: a password or token in a URL would be stored by Prefect, as every "
            "change is. Write a query into the config file, or as ?${NAME}"
        )
    *parents, last = dotted.split(".")
    node: Any = tree
    default: Any = None
    for depth, part in enumerate(parents):
        default = _default(part) if depth == 0 else getattr(default, part, None)
        node = _step_into(node, part, override, default)
    if last in DISCRIMINATORS and isinstance(node, dict):
        _change_kind(node, last, value, parents)
    _assign(node, last, value, override)


def _change_kind(node: dict[str, Any], field: str, kind: object, place: Sequence[str]) -> None:
    """Before a discriminator changes, drop the keys that the new kind does not have."""
    if node.get(field) == kind:
        return
    location = [int(part) if part.isdigit() else part for part in place]
    for model in _kinds(PipelineConfig, location):
        if kind in _tags(model):
            for key in set(node) - set(model.model_fields):
                del node[key]


def _default(field: str) -> Any:
    """The default of a top-level field that the file does not set."""
    known = PipelineConfig.model_fields.get(field)
    return known.get_default() if known is not None and not known.is_required() else None


def _step_into(node: Any, part: str, override: str, default: object) -> Any:
    """The child of a node; if the file does not have it, create it from the default."""
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override!r}: {part!r} has no keys below it")
    if node.get(part) is None:
        if default is not None and not isinstance(default, BaseModel):
            raise ConfigError(f"--set {override!r}: {part!r} is a plain value, not a section")
        node[part] = default.model_dump() if default is not None else {}
    return node[part]


def _assign(node: Any, last: str, value: Any, override: str) -> None:
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {override!r}: {last!r} cannot be set below a plain value")


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"--set {override!r}: {part!r} is not one of the {len(node)} items (0 .. "
            f"{len(node) - 1}) of that list"
        )
    return int(part)


def place_of_path(path: Path, overrides: Sequence[str], message: str) -> str | None:
    """Where a config names the file or model that a message is about: 'my.yaml:12: model.path'.

    None if it names none of them.
    """
    marked = _read(path)
    tree = _plain(marked)
    for override in overrides:
        _apply(tree, override)
    named = [found for found in _paths(tree) if found[1] in message]
    if not named:
        return None
    location, _ = max(named, key=lambda found: len(found[1]))
    where, line = _locate(tree, marked, location)
    key = ".".join(map(str, where))
    return f"{_override_of(key, overrides) or f'{path}:{line}'}: {key}"


def _paths(node: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, str]]:
    """Every path and id in a tree: where it is, and what it says."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for part, value in items:
        if part in ("path", "id") and isinstance(value, str):
            yield (*above, part), value
        elif isinstance(value, dict | list):
            yield from _paths(value, (*above, part))


# --- explaining -------------------------------------------------------------------------------

EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected `key: value` lines",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "list_type": "expected a list",
    "model_attributes_type": "expected `key: value` lines",
    "model_type": "expected `key: value` lines",
    "string_type": "expected text",
    "tuple_type": "expected a list",
}
"""What a user reads for pydantic's type errors, which speak of Python."""
Located = tuple[list[str | int], int | None]
"""A key path within the file, and its line number if the key is in the file."""


def _explain(
    problem: Mapping[str, Any], located: Located, path: Path, overrides: Sequence[str]
) -> str:
    where, line = located
    key = ".".join(map(str, where)) or "the file"
    place = _override_of(key, overrides) or (f"{path}:{line}" if line else f"{path}")
    if problem["type"] == "extra_forbidden":
        kinds = list(_kinds(PipelineConfig, problem["loc"][:-1]))
        deeper = sorted({below for kind in kinds for below in _below(kind, str(where[-1]))})
        if deeper:
            section = ".".join(map(str, where[:-1]))
            named = " or ".join(repr(f"{section}.{below}".lstrip(".")) for below in deeper[:4])
            return f"{place}: unknown key {key}; did you mean {named}?"
        valid = sorted(name for kind in kinds for name in kind.model_fields)
        return f"{place}: unknown key {key}; {_suggestion(str(where[-1]), valid)}"
    if problem["type"] == "union_tag_invalid":
        return f"{place}: {key}: {no_such_kind(problem)}"
    if problem["type"] == "missing":
        return f"{place}: {key} is missing"
    if problem["type"] == "union_tag_not_found":
        return f"{place}: {key} needs a `{_discriminator(problem)}` that selects its kind"
    message = EXPECTED.get(problem["type"], str(problem["msg"]).removeprefix("Value error, "))
    if isinstance(
        problem.get("ctx", {}).get("error"), SecretFound
    ):  # print neither the value nor the `--set` that contains it
        return f"{path if place.startswith('--set') else place}: {key}: {message}"
    shown = repr(problem["input"])
    given = f", got {shown}" if len(shown) <= 60 else ""
    return f"{place}: {key}: {message[:1].lower()}{message[1:]}{given}"


def no_such_kind(problem: Mapping[str, Any]) -> str:
    """What to say of an unknown name of a kind, as pydantic reports it."""
    valid = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
    tag = problem["ctx"]["tag"]
    return f"there is no {tag!r}; {_suggestion(tag, valid)}"


def _below(model: type[BaseModel], name: str, depth: int = 2) -> Iterator[str]:
    """The dotted keys with this name in the sections of a model: 'loss.beta' of `dpo`."""
    for name_of_field, info in model.model_fields.items():
        field = f"{name_of_field}.0" if get_origin(info.annotation) is tuple else name_of_field
        for section in _models(info.annotation) if depth else ():
            if name in section.model_fields:
                yield f"{field}.{name}"
            yield from (f"{field}.{below}" for below in _below(section, name, depth - 1))


def _causes(problems: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Drop errors that only follow from others: "list too short" because its items are invalid."""
    for problem in problems:
        place = problem["loc"]
        within = [p for p in problems if p["loc"][: len(place)] == place and p is not problem]
        if problem["type"] != "too_short" or not within:
            yield problem


def _place(problem: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The location that pydantic reports; for an unknown kind, that of its discriminator."""
    found: tuple[str | int, ...] = problem["loc"]
    return (*found, _discriminator(problem)) if problem["type"] == "union_tag_invalid" else found


def _discriminator(problem: Mapping[str, Any]) -> str:
    """The field that selects the member of a union; pydantic reports it in quotes."""
    return str(problem["ctx"]["discriminator"]).strip("'")


def _suggestion(given: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"valid names: {', '.join(valid)}"


def _override_of(key: str, overrides: Sequence[str]) -> str | None:
    """The override that set a key or a section around it."""
    for override in reversed(overrides):
        dotted = override.partition("=")[0]
        if f"{key}.".startswith(f"{dotted}."):
            return f"--set {override!r}"
    return None


def _locate(tree: Any, marked: Any, location: Sequence[str | int]) -> Located:
    """The key path and line of an error, without the union tags that pydantic adds to locations.

    Args:
        tree: the tree that was validated.
        marked: the file's tree, before any override.
        location: the location that pydantic reports.
    """
    where: list[str | int] = []
    line: int | None = None
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        if not _holds(tree, part) and not (is_last and isinstance(tree, dict)):
            continue
        line = _line(marked, part) or line
        tree = tree[part] if _holds(tree, part) else None
        marked = marked[part] if _holds(marked, part) else None
        where.append(part)
    return where, line


def _holds(node: Any, part: str | int) -> bool:
    if isinstance(node, dict):
        return part in node
    return isinstance(node, list) and isinstance(part, int) and part < len(node)


def _line(node: Any, part: str | int) -> int | None:
    marks = getattr(node, "lc", None)
    data = getattr(marks, "data", None) or {}
    return data[part][0] + 1 if part in data else None


def _kinds(model: Any, location: Sequence[str | int]) -> Iterator[type[BaseModel]]:
    """The models that are possible at a location; union tags in it narrow them down.

    A member of a union that has no discriminator of its own may have any tag.
    """
    for candidate in _models(model):
        if not location:
            yield candidate
            continue
        part, *rest = location
        if part in candidate.model_fields:
            yield from _kinds(candidate.model_fields[str(part)].annotation, rest)
        elif part in (_tags(candidate) or (part,)) or isinstance(part, int):
            yield from _kinds(candidate, rest)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models in an annotation, inside unions, optionals, tuples and `Annotated` too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, Annotated, tuple, list) or get_args(annotation):
        for part in get_args(annotation):
            yield from _models(part)


def _tags(model: type[BaseModel]) -> tuple[object, ...]:
    fields = (model.model_fields.get(name) for name in DISCRIMINATORS)
    return tuple(tag for field in fields if field for tag in get_args(field.annotation))
