"""Pairs that the tests' tiny model can learn by degrees, and a line of rounds on them.

A reply is one word. There are seventy-five pairs of words, one of which is always chosen. All words
are single tokens, and a model of 38,000 parameters cannot move so many tokens independently, so
it is right on more or fewer pairs. Not here: what is measured with it (`line.py`).
"""

import random
from pathlib import Path
from typing import Any, Literal

from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.settings import GateConfig
from alignment.records.text import Message, PreferencePair
from benchmarks.bad_rounds import write_pairs
from tests import tiny

KINDS = 75
"""Pairs of words."""
FIRST = {"epochs": 4, "learning_rate": 2e-2}
"""How the line's first model is trained, on right labels."""


def words() -> list[tuple[str, str]]:
    """The pairs of words, the chosen one first: tokens of the tests' tokenizer."""
    vocabulary: dict[str, int] = tiny.tokenizer().get_vocab()  # type: ignore[no-untyped-call]
    whole = [token[1:] for token in vocabulary if token[0] == "Ġ" and token[1:].isalpha()]
    ordered = sorted(whole)
    random.Random(0).shuffle(ordered)
    return list(zip(ordered[:KINDS], ordered[KINDS : 2 * KINDS], strict=True))


def pairs_of(part: str, rows: int) -> list[PreferencePair]:
    """Pairs on prompts of their own, with each pair of words in turn."""
    known = words()
    return [_pair(part, number, *known[number % KINDS]) for number in range(rows)]


def settings(
    folder: Path, line: str, gate: GateConfig, *, held_out: int, learning_rate: float
) -> PipelineConfig:
    """The tests' tiny model after one round on right labels, and the inbox of a line.

    Args:
        folder: where model, data, batches and store go.
        line: name of the line.
        gate: its gate.
        held_out: pairs that every model is evaluated on.
        learning_rate: of the rounds of the line.
    """
    model = folder / "model"
    if not model.exists():
        tiny.write_model(model, tiny.tokenizer())  # type: ignore[no-untyped-call]
    config: dict[str, Any] = tiny.settings(model, folder / "store")  # type: ignore[no-untyped-call]
    held = _written(folder, "held-out", held_out) | {"use": "held_out"}
    first = {"sources": [_written(folder, "first", 3 * KINDS)], "held_out_share": 0.0}
    config["evaluation"] |= {
        "data": {"sources": [held], "min_rows": 0},
        "pairs": held_out,
        "prompts": 8,
        "engine": {"name": "packed"},
    }
    config["dpo"] |= {
        "engine": {"name": "packed"},
        "batch": {"per_device": 20, "accumulation": 1},
        "samples": 0,
        "evaluation_rows": 0,
        "save_every": 100,
    }
    changed = {
        "sft": {"name": "none"},
        "control": None,
        "rounds": [{"data": first, "training": config["dpo"] | FIRST}],
        "dpo": config["dpo"] | {"learning_rate": learning_rate},
        "gate": gate.model_dump(),
        "inbox": {
            "path": str(folder / "inbox" / line),
            "line": line,
            "min_new_pairs": 16,
            "settle_seconds": 0,
        },
    }
    return PipelineConfig.model_validate(config | changed)


def _written(folder: Path, part: str, rows: int) -> dict[str, str]:
    """The source of a file of pairs, which is written here."""
    path = folder / f"{part}.jsonl"
    write_pairs(path, pairs_of(part, rows))
    return {"name": "file", "path": str(path)}


def _pair(part: str, number: int, chosen: str, rejected: str) -> PreferencePair:
    prompt = f"Number {number} of {part}: is the licence granted?"
    return PreferencePair.of(
        (_message("user", prompt),),
        chosen=(_message("assistant", f"The answer is {chosen}"),),
        rejected=(_message("assistant", f"The answer is {rejected}"),),
        task_type="words",
        source="words",
    )


def _message(role: Literal["user", "assistant"], content: str) -> Message:
    return Message(role=role, content=content)
