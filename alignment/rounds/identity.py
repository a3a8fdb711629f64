"""What a line is made of, and whether a config describes the same line.

Presets share a store and may name the same line. Without this check, a round with another config
would train the line's model and report it as the config's own.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

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
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps import OpenBase, made_by
from alignment.records.base import Json
from alignment.rounds.content import changes, different, known_keys
from alignment.rounds.ledger import Identity
from alignment.rounds.line import RoundLine
from alignment.rounds.state import State
from alignment.store.lineage import ancestors

logger = logging.getLogger(__name__)

_GATE: TypeAdapter[PlainGate | AnchoredGate] = TypeAdapter(GateConfig)


def identity_of(config: PipelineConfig) -> Identity:
    """What a line that starts with this config is made of. Hashes the model's and data files."""
    return _identity(config, chain(config))


class Found(NamedTuple):
    """A config as it is compared with a line.

    Attributes:
        identity: what the config describes. The same files at another path are the same.
        changes: why keys differ, if they do.
    """

    identity: Identity
    changes: tuple[str, ...] = ()


def found_in(config: PipelineConfig, line: RoundLine) -> Found:
    """What a config describes, compared with a line; hashes like `identity_of`."""
    planned, known = chain(config), line.state().identity
    identity = _identity(config, planned)
    if known is None:
        return Found(identity)
    store, steps = line.store, {step.key: step for step in planned.steps()}
    (sft,) = known_keys(store, (known.sft,), (identity.sft,), steps)
    rows = known_keys(store, known.rows, identity.rows, steps)
    pairs = zip((known.sft, *known.rows), (sft, *rows), strict=False)
    why = (line for pair in pairs for line in changes(store, *pair, steps))
    return Found(identity.model_copy(update={"sft": sft, "rows": rows}), tuple(dict.fromkeys(why)))


def _identity(config: PipelineConfig, planned: Chain) -> Identity:
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
        found = found_in(config, line)
    except DataError as error:
        logger.warning("%s; whether the line has the same data was not checked", error)
        check_cheaply(config, line, state)
        return
    identity = found.identity
    if state.identity is not None:
        _raise_differences(line, state.identity, identity, found.changes)
    elif state.champion is not None:
        recorded = {"model": _recorded_model(line, state) or identity.model}
        _raise_differences(line, identity.model_copy(update=recorded), identity)
        line.adopt(identity, "the first config that continued it")


def differences(known: Identity, found: Identity) -> Iterator[str]:
    """'model: the line has ..., the config ...', for each field that differs."""
    known = _with_defaults(known)
    for name in Identity.model_fields:
        yield from different(name, getattr(known, name), getattr(found, name))


def _with_defaults(known: Identity) -> Identity:
    """Values of settings that did not exist when the identity was recorded: their defaults."""
    try:
        evaluation = same_measure(EvaluationConfig.model_validate(known.evaluation))
        gate = known.gate and _GATE.validate_python(known.gate).model_dump(mode="json")
    except ValidationError:
        return known
    return known.model_copy(update={"evaluation": evaluation, "gate": gate})


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


def _raise_differences(
    line: RoundLine, known: Identity, found: Identity, changes: tuple[str, ...] = ()
) -> None:
    if listed := sorted(differences(known, found)):
        raise ConfigError(
            f"the config describes another line than {line.name!r} in {line.store.root}:\n  "
            + "\n  ".join([*listed, *changes])
            + "\nGive it a line of its own (--set inbox.line=NAME), or continue this one with it: "
            "sft-dpo line adopt CONFIG"
        )
