"""The whole configuration of a run: the stages' own configs, composed. Read it as a contents page.

`load` reads a YAML file, applies `--set` overrides and says for every mistake in which file,
under which key and on which line it is, and which name was probably meant. The defaults are the
seed's values for Qwen2.5-7B-Instruct on one 40 GB card.
`python -m alignment.config FILE` writes the JSON schema that editors use.
"""

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, PositiveFloat, ValidationError

from alignment.data.files import SecretFound
from alignment.data.prepare import ConversationSetConfig, PairSetConfig
from alignment.errors import ConfigError
from alignment.evaluate.gate import GateConfig
from alignment.evaluate.suite import EvaluationConfig
from alignment.intake import InboxConfig
from alignment.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter
from alignment.models.merge import Merge
from alignment.models.sources import ModelSource
from alignment.models.stack import Stack
from alignment.records import Frozen, Quantisation, digest_of
from alignment.store import file_sha256
from alignment.train.dpo import DpoConfig
from alignment.train.sft import SftConfig


class TrainedSft(Frozen):
    """Fine-tune an adapter on conversations first."""

    name: Literal["train"] = "train"
    data: ConversationSetConfig = Field(description="Conversations to imitate.")
    training: SftConfig = Field(default=SftConfig(), description="How the adapter is trained.")


class AdapterSft(Frozen):
    """Start from an SFT adapter that was trained elsewhere.

    A folder that is not there, or holds no adapter, means: no SFT adapter, the base model takes
    its place. A damaged adapter is an error.
    """

    name: Literal["adapter"] = "adapter"
    path: Path = Field(description="Folder written by PEFT's save_pretrained.")

    def present(self) -> bool:
        """Whether there is an adapter to start from, sound or not."""
        return any((self.path / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))

    def digest(self) -> str:
        """What names this adapter in a key: its bytes.

        Raises:
            ModelError: the adapter is incomplete or damaged.
        """
        check_adapter(self.path)
        files = [self.path / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
        return digest_of([file_sha256(file) for file in files])


class NoSft(Frozen):
    """No SFT: the rounds start from the base model."""

    name: Literal["none"] = "none"


Sft = Annotated[TrainedSft | AdapterSft | NoSft, Field(discriminator="name")]


Compose = Annotated[Merge | Stack, Field(discriminator="name")]


class RoundConfig(Frozen):
    """One DPO round: its pairs, and its settings where they differ from `dpo`."""

    data: PairSetConfig = Field(description="Preference pairs of this round.")
    training: DpoConfig | None = Field(
        default=None, description="Settings of this round alone; the run's `dpo` otherwise."
    )


class ControlConfig(Frozen):
    """Beside the rounds: the SFT model trained on, by plain SFT, for as many steps.

    It imitates the chosen replies of the rounds' pairs, in the rounds' batch size, one pass: the
    same prompts and the same number of steps, without the preference.
    """

    learning_rate: PositiveFloat | None = Field(
        default=None, description="Peak learning rate; that of `sft.training` when absent."
    )


class PipelineConfig(Frozen):
    """One run of the pipeline."""

    name: str = Field(
        default="run", pattern=r"^[a-z0-9][a-z0-9-]*$", description="Name of the run in reports."
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Every stage derives a seed of its own from it."
    )
    store: Path = Field(default=Path("runs"), description="Folder in which artifacts live.")
    model: ModelSource = Field(description="The chat model to start from.")
    quantisation: Quantisation | None = Field(
        default=Quantisation(),
        description="4-bit weights under the adapter in training; null for full weights.",
    )
    sft: Sft = Field(description="How the rounds' starting model comes to be.")
    dpo: DpoConfig = Field(default=DpoConfig(), description="Settings of every DPO round.")
    rounds: tuple[RoundConfig, ...] = Field(
        default=(), description="The DPO rounds, in order; each starts from the last that was kept."
    )
    gate: GateConfig | None = Field(
        default=GateConfig(),
        description="When a round is kept. The next one starts from it, otherwise from where it "
        "started; null: every round is kept.",
    )
    compose: Compose = Field(
        default=Merge(), description="How a stage's adapter is handed to the next stage."
    )
    control: ControlConfig | None = Field(
        default=None, description="A plain-SFT control beside the rounds; null for none."
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="The measurement every model of the chain gets."
    )
    stall_minutes: float | None = Field(
        default=60.0,
        gt=0,
        description="Minutes in which a step's process neither made progress nor wrote to its log, "
        "after which it is ended; the same command continues it. null: it is waited for for ever.",
    )
    gpu_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="GPU memory in GiB that a step may take for its tensors: a share of a card, or "
        "on a large card what must fit a smaller one. null: all there is.",
    )
    inbox: InboxConfig | None = Field(
        default=None,
        description="Where `sft-dpo round` finds new pairs after the rounds above; null: nowhere.",
    )

    def first_rounds(self, number: int) -> "PipelineConfig":
        """This run with its first rounds only."""
        return self.model_copy(update={"rounds": self.rounds[:number]})


def load(path: Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The configuration of a YAML file with overrides applied.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value`; numbers select list items, the value is YAML.

    Raises:
        ConfigError: all mistakes at once, each with file, line, key and a remedy.
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


def schema() -> dict[str, Any]:
    """The JSON schema of a config file."""
    return PipelineConfig.model_json_schema()


# --- reading ----------------------------------------------------------------------------------


def _read(path: Path) -> Any:
    """The file's tree, whose nodes know their lines."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.stem, _shipped(path.parent), n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(f'{n}.yaml' for n in near)}?" if near else ""
        raise ConfigError(f"no config file {path}.{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    return tree


def _shipped(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _plain(node: Any) -> Any:
    """The tree without ruamel's types, which pydantic would treat as strangers.

    What several places have by one YAML anchor stands in each by itself, so that an override of
    one leaves the others.
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


def _apply(tree: Any, override: str) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override!r}: expected dotted.key=value")
    try:
        value = _plain(YAML(typ="safe").load(text))
    except YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from error
    *parents, last = dotted.split(".")
    node: Any = tree
    default: Any = None
    for depth, part in enumerate(parents):
        default = _default(part) if depth == 0 else getattr(default, part, None)
        node = _step_into(node, part, override, default)
    if last == "name" and isinstance(node, dict):
        _become(node, value, parents)
    _assign(node, last, value, override)


def _become(node: dict[str, Any], kind: object, place: Sequence[str]) -> None:
    """Of what the file says of another kind of thing, keep what this kind has as well."""
    if node.get("name") == kind:
        return
    location = [int(part) if part.isdigit() else part for part in place]
    for model in _kinds(PipelineConfig, location):
        if kind in _tags(model):
            for key in set(node) - set(model.model_fields):
                del node[key]


def _default(field: str) -> Any:
    """What a field of the whole config stands for when the file does not name it."""
    known = PipelineConfig.model_fields.get(field)
    return known.get_default() if known is not None and not known.is_required() else None


def _step_into(node: Any, part: str, override: str, default: object) -> Any:
    """The item below; where the file says nothing, what it stands for by default."""
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override!r}: nothing can stand below {part!r} there")
    if node.get(part) is None:
        if default is not None and not isinstance(default, BaseModel):
            raise ConfigError(f"--set {override!r}: {part!r} is a plain value; nothing is below it")
        node[part] = default.model_dump() if default is not None else {}
    return node[part]


def _assign(node: Any, last: str, value: Any, override: str) -> None:
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {override!r}: {last!r} would stand below a plain value")


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"--set {override!r}: {part!r} is not one of the {len(node)} items (0 .. "
            f"{len(node) - 1}) of that list"
        )
    return int(part)


# --- explaining -------------------------------------------------------------------------------

Located = tuple[list[str | int], int | None]
"""A key path within the file, and its line where the file has it."""


def _explain(
    problem: Mapping[str, Any], located: Located, path: Path, overrides: Sequence[str]
) -> str:
    where, line = located
    key = ".".join(map(str, where)) or "the file"
    place = _override_of(key, overrides) or (f"{path}:{line}" if line else f"{path}")
    if problem["type"] == "extra_forbidden":
        kinds = _kinds(PipelineConfig, problem["loc"][:-1])
        valid = sorted(name for kind in kinds for name in kind.model_fields)
        return f"{place}: unknown key {key}; {_meant(str(where[-1]), valid)}"
    if problem["type"] == "union_tag_invalid":
        valid = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        tag = problem["ctx"]["tag"]
        return f"{place}: {key}: there is no {tag!r}; {_meant(tag, valid)}"
    if problem["type"] == "missing":
        return f"{place}: {key} is missing"
    if problem["type"] == "union_tag_not_found":
        return f"{place}: {key} needs a `name` that says which kind it is"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(
        problem.get("ctx", {}).get("error"), SecretFound
    ):  # neither the value nor the `--set` that holds it
        return f"{path if place.startswith('--set') else place}: {key}: {message}"
    shown = repr(problem["input"])
    given = f", got {shown}" if len(shown) <= 60 else ""
    return f"{place}: {key}: {message[:1].lower()}{message[1:]}{given}"


def _causes(problems: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All but what follows from another: a list that is too short for its items are wrong."""
    for problem in problems:
        place = problem["loc"]
        within = [p for p in problems if p["loc"][: len(place)] == place and p is not problem]
        if problem["type"] != "too_short" or not within:
            yield problem


def _place(problem: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where a mistake stands, as pydantic says; that of an unknown kind in its `name`."""
    found: tuple[str | int, ...] = problem["loc"]
    return (*found, "name") if problem["type"] == "union_tag_invalid" else found


def _meant(given: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"valid names: {', '.join(valid)}"


def _override_of(key: str, overrides: Sequence[str]) -> str | None:
    """The override that a key, or what it stands in, was set by."""
    for override in reversed(overrides):
        dotted = override.partition("=")[0]
        if f"{key}.".startswith(f"{dotted}."):
            return f"--set {override!r}"
    return None


def _locate(tree: Any, marked: Any, location: Sequence[str | int]) -> Located:
    """Where a mistake stands; union tags, which no file has, are left out.

    Args:
        tree: what was validated.
        marked: the file's tree, before any override.
        location: as pydantic gives it.
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
    """The models that may stand at a place of the config; union tags in it narrow them down."""
    for candidate in _models(model):
        if not location:
            yield candidate
            continue
        part, *rest = location
        if part in candidate.model_fields:
            yield from _kinds(candidate.model_fields[str(part)].annotation, rest)
        elif part in _tags(candidate) or isinstance(part, int):
            yield from _kinds(candidate, rest)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation: unions, optionals, tuples and Annotated opened."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, Annotated, tuple, list) or get_args(annotation):
        for part in get_args(annotation):
            yield from _models(part)


def _tags(model: type[BaseModel]) -> tuple[object, ...]:
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field is not None else ()


def _write_schema(path: Path) -> None:
    import json

    path.write_text(json.dumps(schema(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_schema(Path(sys.argv[1]))
