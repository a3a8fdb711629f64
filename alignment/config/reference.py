"""The reference of a config in the documentation: a table per group of keys, from the schema.

python -m alignment.config.reference docs/configuration.md

The schema of `pipeline.py` names each class once, under `$defs`, wherever it is used. Here, each
class is a group, at the first place where it may stand; other places refer to it.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.config.pipeline import schema

BEGIN, END = "<!-- keys: written by `make schema` -->", "<!-- end of keys -->"
Schema = Mapping[str, Any]
LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "maximum": "≤", "exclusiveMaximum": "<"}
LARGEST_SHOWN = 1_000_000
"""A limit beyond this is one of storage (a seed's 2**31), which tells a reader nothing."""
PLACES_SHOWN = 3
TAGS = ("name", "kind")
"""The keys that say which of several classes is meant."""


@dataclass
class Group:
    """The keys of one class: where they may stand, and which value of its tag selects it."""

    title: str
    schema: Schema
    also: dict[str, None] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """What GitHub and MkDocs both make of the title."""
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")


class Reference:
    """All groups of the schema, in the order of the file."""

    def __init__(self, root: Schema) -> None:
        self._classes: Schema = root["$defs"]
        self._groups: dict[str, Group] = {}
        self._top = root
        self._visit(root, "")

    def __str__(self) -> str:
        top = self._table(self._top, "")
        return "\n\n".join(["## The file", top, *map(self._section, self._groups.values())])

    def _visit(self, owner: Schema, place: str) -> None:
        for key, value in _keys(owner).items():
            for choice in _classes_in(value):
                self._meet(choice, f"{place}{key}{'[]' if _is_list(value) else ''}")

    def _meet(self, name: str, place: str) -> None:
        if name in self._groups:
            self._groups[name].also[place] = None
        elif "properties" in (found := self._classes[name]):
            tag = _tag(found)
            title = f"{place}: {tag[1]}" if tag else place
            self._groups[name] = Group(title=title, schema=found)
            self._visit(found, f"{place}.")

    def _section(self, group: Group) -> str:
        place = group.title.partition(": ")[0]
        others = [f"`{other}`" for other in group.also if other != place]
        more = ", …" if len(others) > PLACES_SHOWN else ""
        also = f"Also at {', '.join(others[:PLACES_SHOWN])}{more}." if others else ""
        depth = "##" if "." not in place else "###"
        parts = [f"{depth} {group.title}", _summary(group.schema)]
        if _keys(group.schema):
            parts += [also, self._table(group.schema, f"{place}.")]
        return "\n\n".join(part for part in parts if part)

    def _table(self, owner: Schema, prefix: str) -> str:
        needed = owner.get("required", ())
        rows = [
            f"| `{prefix}{key}` | {self._type(value)} | "
            f"{'**required**' if key in needed else self._default(value)} | "
            f"{_cell(value.get('description', ''))} |"
            for key, value in _keys(owner).items()
        ]
        return "\n".join(["| Key | Type | Default | What it does |", "|---|---|---|---|", *rows])

    def _type(self, value: Schema) -> str:
        if "$ref" in value:
            return self._link(value["$ref"].rpartition("/")[2])
        if options := value.get("oneOf") or value.get("anyOf"):
            return " or ".join(dict.fromkeys(map(self._type, options)))
        if value.get("type") == "array":
            return f"list of {self._type(value['items'])}" if "items" in value else "list"
        if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
            return f"map of {self._type(value['additionalProperties'])}"
        return _plain_type(value)

    def _link(self, name: str) -> str:
        if name not in self._groups:
            return "any value"
        group = self._groups[name]
        tag = _tag(group.schema)
        return f"[{tag[1] if tag else 'keys'}](#{group.anchor})"

    def _default(self, value: Schema) -> str:
        default = value.get("default", {})  # only a new empty map has no default in the schema
        if not (isinstance(default, dict) and default):
            return f"`{_yaml(default)}`"
        own = next((d for d in map(self._own, _classes_in(value)) if _fits(default, d)), {})
        changed = {k: v for k, v in default.items() if k in TAGS or v != own.get(k, v)}
        return f"`{_yaml(changed)}`" if changed else "its keys' defaults"

    def _own(self, name: str) -> dict[str, Any]:
        """The defaults of a class itself."""
        keys = self._classes[name].get("properties", {})
        return {key: value["default"] for key, value in keys.items() if "default" in value}


def _fits(default: Schema, own: Schema) -> bool:
    return all(default.get(tag) == own[tag] for tag in TAGS if tag in own)


def _keys(owner: Schema) -> dict[str, Schema]:
    """The keys of a class without its tag, which the title of its group names."""
    properties: dict[str, Schema] = owner.get("properties", {})
    return {k: v for k, v in properties.items() if not (k in TAGS and "const" in v)}


def _tag(owner: Schema) -> tuple[str, str] | None:
    keys = owner.get("properties", {})
    return next(((tag, keys[tag]["const"]) for tag in TAGS if "const" in keys.get(tag, {})), None)


def _is_list(value: Schema) -> bool:
    return any(one.get("type") == "array" for one in (value, *value.get("anyOf", ())))


def _classes_in(value: object) -> Iterator[str]:
    """The names of the classes that a value may be of."""
    if isinstance(value, list):
        for one in value:
            yield from _classes_in(one)
    elif isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for key in ("oneOf", "anyOf", "items", "additionalProperties"):
            yield from _classes_in(value.get(key))


def _plain_type(value: Schema) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    limits = [f"{sign} {value[name]}" for name, sign in LIMITS.items() if _is_limit(value, name)]
    return " ".join([str(value.get("type", "any value")), ", ".join(limits)]).strip()


def _is_limit(value: Schema, name: str) -> bool:
    return name in value and value[name] < LARGEST_SHOWN


def _summary(owner: Schema) -> str:
    """The first paragraph of a class's docstring, as one line."""
    text: str = owner.get("description", "")
    return " ".join(text.partition("\n\n")[0].split()).removesuffix(" Abstract.")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _yaml(value: object) -> str:
    """A value as one would write it in a file, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return value if isinstance(value, str) and value else json.dumps(value)


def with_reference(document: str) -> str:
    """The document with its tables of keys written anew."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{Reference(schema())}\n{END}", document)


def main(path: Path) -> None:
    """Write the reference into a document."""
    path.write_text(with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
