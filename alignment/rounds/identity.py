"""What a line is made of, and whether a config describes the same line.

Presets share a store and may name the same line. Without this check, a round with another config
would train the line's model and report it as the config's own.
"""

import logging
from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError

from alignment.config.pipeline import PipelineConfig
from alignment.errors import ConfigError, DataError
from alignment.evaluate.settings import (
    UNMEASURED,
    AnchoredGate,
    EvaluationConfig,
    GateConfig,
    PlainGate,
)
from alignment.models.sources import FolderModel
from alignment.pipeline.chain import chain
from alignment.pipeline.steps import OpenBase, made_by
from alignment.records import Json
from alignment.rounds.ledger import Identity
from alignment.rounds.line import RoundLine
from alignment.rounds.state import State
from alignment.store.lineage import ancestors

logger = logging.getLogger(__name__)

_GATE: TypeAdapter[PlainGate | AnchoredGate] = TypeAdapter(GateConfig)


def identity_of(config: PipelineConfig) -> Identity:
    """What a line that starts with this config is made of. Hashes the model's and data files."""
    planned = chain(config)
    return Identity(
        **_settings(config),
        model=config.model.digest(),
        sft=planned.sft.key if planned.sft else "",
        rows=planned.evaluate_sft.data,
    )


def same_measure(config: EvaluationConfig) -> Json:
    """The settings of an evaluation that decide its numbers."""
    return config.model_dump(mode="json", exclude=set(UNMEASURED))


def check_cheaply(config: PipelineConfig, line: RoundLine, state: State) -> None:
    """Compare what needs no hashing of files.

    Raises:
        ConfigError: the config describes another line.
    """
    known = state.identity
    if known is None:
        return
    found = _settings(config)
    if not isinstance(config.model, FolderModel):
        found["model"] = config.model.digest()
    _raise_differences(line, known, known.model_copy(update=found))


def check(config: PipelineConfig, line: RoundLine) -> None:
    """Compare everything; a line without an identity takes that of the first config.

    If a source of the configured run is gone, the rest is compared: no round reads it again.

    Raises:
        ConfigError: the config describes another line.
    """
    state = line.state()
    try:
        identity = identity_of(config)
    except DataError as error:
        logger.warning("%s; whether the line has the same data was not checked", error)
        check_cheaply(config, line, state)
        return
    if state.identity is not None:
        _raise_differences(line, state.identity, identity)
    elif state.champion is not None:
        recorded = {"model": _recorded_model(line, state) or identity.model}
        _raise_differences(line, identity.model_copy(update=recorded), identity)
        line.adopt(identity, "the first config that continued it")


def differences(known: Identity, found: Identity) -> Iterator[str]:
    """'model: the line has ..., the config ...', for each field that differs."""
    known = _with_defaults(known)
    for name in Identity.model_fields:
        yield from _different(name, getattr(known, name), getattr(found, name))


def _with_defaults(known: Identity) -> Identity:
    """Values of settings that did not exist when the identity was recorded: their defaults."""
    try:
        evaluation = same_measure(EvaluationConfig.model_validate(known.evaluation))
        gate = known.gate and _GATE.validate_python(known.gate).model_dump(mode="json")
    except ValidationError:
        return known
    return known.model_copy(update={"evaluation": evaluation, "gate": gate})


def _different(name: str, known: object, found: object) -> Iterator[str]:
    if isinstance(known, dict) and isinstance(found, dict):
        if known.get("name") != found.get("name"):  # another kind, with settings of its own
            yield f"{name}: the line has {known.get('name')}, the config {found.get('name')}"
            return
        for key in sorted(known.keys() | found.keys()):
            yield from _different(f"{name}.{key}", known.get(key), found.get(key))
    elif known != found:
        yield f"{name}: the line has {_shown(known)}, the config {_shown(found)}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _settings(config: PipelineConfig) -> dict[str, object]:
    return {
        "quantisation": config.quantisation and config.quantisation.model_dump(mode="json"),
        "evaluation": same_measure(config.evaluation),
        "gate": config.gate and config.gate.model_dump(mode="json"),
    }


def _recorded_model(line: RoundLine, state: State) -> str | None:
    """The base model of the champion, according to its manifests."""
    assert state.champion is not None
    bases = (r for r in ancestors(line.store, state.champion.model) if made_by(r, OpenBase))
    base = next(bases, None)
    return None if base is None else str(base.config["digest"])


def _raise_differences(line: RoundLine, known: Identity, found: Identity) -> None:
    if listed := sorted(differences(known, found)):
        raise ConfigError(
            f"the config describes another line than {line.name!r} in {line.store.root}:\n  "
            + "\n  ".join(listed)
            + "\nGive it a line of its own (--set inbox.line=NAME), or continue this one with it: "
            "sft-dpo line adopt CONFIG"
        )
