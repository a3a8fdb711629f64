"""Other trainers on the rows of `benchmarks.speed`, each at its best settings; one table.

    python -m benchmarks.peers --model 7b --gpu-memory-gib 39 \
        --python unsloth=/venvs/unsloth/bin/python --python trl=/venvs/trl/bin/python

A trainer without an environment is left out. Each training is a process of its own, and so is
packed's, in the same call. A peer whose gradients are zero or not finite did not train: it has no
figure. `--only WORD` takes the trainings with that word in their name.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignment.records.base import Frozen
from alignment.records.text import PreferencePair
from alignment.scoring.logprobs import encode
from benchmarks.phases import MAX_LENGTH
from benchmarks.workload import DISTRIBUTIONS, SHAPES, pairs_of, tokenizer, write_model

ROWS_OF_STEP = 16


class Peer(Frozen):
    """One way to train with another trainer.

    Attributes:
        per_device: rows of one pass; a step has 16 rows.
        recompute: whether activations are recomputed.
        environment: variables that select it.
        arguments: beyond those that all have, of TRL's config.
    """

    name: str
    trainer: Literal["trl", "unsloth"]
    phase: Literal["sft", "dpo"]
    per_device: int = ROWS_OF_STEP
    recompute: bool = True
    environment: dict[str, str] = Field(default_factory=dict)
    arguments: dict[str, Any] = Field(default_factory=dict)


PEERS = (
    Peer(name="unsloth sft 16x1 padded", trainer="unsloth", phase="sft"),
    Peer(
        name="unsloth sft 16x1 padding-free",
        trainer="unsloth",
        phase="sft",
        arguments={"padding_free": True, "max_length": None},
    ),
    Peer(
        name="unsloth sft 16x1 token budget 8192",
        trainer="unsloth",
        phase="sft",
        environment={"UNSLOTH_TOKEN_BUDGET": "8192"},
    ),
    Peer(
        name="unsloth sft 16x1 layers kept as memory allows",
        trainer="unsloth",
        phase="sft",
        environment={"UNSLOTH_GC_KEEP_LAYERS": "auto"},
    ),
    Peer(
        name="unsloth sft 16x1 nothing recomputed", trainer="unsloth", phase="sft", recompute=False
    ),
    Peer(
        name="trl sft 16x1 padding-free liger",
        trainer="trl",
        phase="sft",
        arguments={"padding_free": True, "max_length": None, "use_liger_kernel": True},
    ),
    Peer(name="unsloth dpo 2x8", trainer="unsloth", phase="dpo", per_device=2),
    Peer(name="unsloth dpo 16x1", trainer="unsloth", phase="dpo"),
    Peer(
        name="unsloth dpo 16x1 fused loss",
        trainer="unsloth",
        phase="dpo",
        environment={"UNSLOTH_FUSED_PREFERENCE_LOSS": "1"},
    ),
    Peer(
        name="trl dpo 2x8 references first",
        trainer="trl",
        phase="dpo",
        per_device=2,
        arguments={"precompute_ref_log_probs": True},
    ),
)


class Timed(Frozen):
    """What one training took, or why it has no figure."""

    name: str
    tokens_per_second: float | None = None
    peak_gib: float | None = None
    failure: str = ""

    def row(self) -> str:
        """The figures as text."""
        if self.tokens_per_second is None:
            return f"{self.name:<48} {self.failure}"
        peak = "" if self.peak_gib is None else f"{self.peak_gib:7.1f} GiB"
        return f"{self.name:<48} {self.tokens_per_second:10,.0f} tokens/s {peak}"


def main() -> None:
    """Time every training that has an environment, and print one line each as it ends."""
    options = _parser().parse_args()
    pythons = dict(text.split("=", 1) for text in options.python)
    model = write_model(options.model, options.scratch / options.model)
    for peer in PEERS:
        if peer.trainer in pythons and options.only in peer.name:
            print(
                _timed(peer, shlex.split(pythons[peer.trainer]), model, options).row(), flush=True
            )
    if options.own:
        for phase in ("sft", "dpo"):
            print(_own(phase, options), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="tiny", choices=SHAPES)
    parser.add_argument("--lengths", default="real", choices=DISTRIBUTIONS)
    parser.add_argument("--python", action="append", default=[], metavar="TRAINER=COMMAND")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--own", action="store_true", help="packed as well, compiled")
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--gpu-memory-gib", type=float, default=39)
    parser.add_argument("--timeout", type=float, default=240, help="seconds of one training")
    parser.add_argument("--scratch", type=Path, default=Path("runs/benchmark-models"))
    return parser


def _timed(peer: Peer, python: Sequence[str], model: Path, options: argparse.Namespace) -> Timed:
    count = ROWS_OF_STEP * (options.warm_up + options.steps)
    pairs = list(pairs_of(options.lengths, count, seed=0))
    lines = list(SHAPED[peer.phase](pairs))
    with tempfile.TemporaryDirectory() as scratch:
        rows, settings = Path(scratch) / "rows.jsonl", Path(scratch) / "settings.json"
        rows.write_text("\n".join(map(json.dumps, lines)))
        settings.write_text(json.dumps(_settings(peer, model, rows, options)))
        command = [*python, str(Path(__file__).with_name("peer_trainer.py")), str(settings)]
        try:
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, timeout=options.timeout
            )
        except subprocess.TimeoutExpired:
            return Timed(name=peer.name, failure=f"no figure within {options.timeout:g} s")
    if done.returncode:
        return Timed(name=peer.name, failure=f"failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if not all(math.isfinite(norm) and norm > 0 for norm in found["gradient_norms"]):
        return Timed(name=peer.name, failure=f"did not train: {found['gradient_norms']}")
    tokens = sum(line["tokens"] for line in lines[ROWS_OF_STEP * options.warm_up :])
    speed = tokens / found["seconds"]
    return Timed(name=peer.name, tokens_per_second=speed, peak_gib=found["peak_gib"])


def _settings(peer: Peer, model: Path, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    return {
        **peer.model_dump(),
        "model": str(model.resolve()),
        "rows": str(rows),
        "scratch": str(rows.parent / "out"),
        "accumulation": ROWS_OF_STEP // peer.per_device,
        "steps": options.steps,
        "warm_up": options.warm_up,
        "gpu_memory_gib": options.gpu_memory_gib,
    }


def _conversations(pairs: Sequence[PreferencePair]) -> Iterator[dict[str, Any]]:
    """Prompt and chosen reply as token ids, with labels on the reply."""
    words = tokenizer()
    for pair in pairs:
        row = encode(words, pair.prompt, pair.chosen, max_length=MAX_LENGTH)
        ids = [*row.prompt, *row.reply]
        labels = [-100] * len(row.prompt) + [*row.reply]
        shaped = {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}
        yield {"tokens": row.length, "row": shaped}


def _pairs(pairs: Sequence[PreferencePair]) -> Iterator[dict[str, Any]]:
    """Pairs as text; a prompt's tokens count once per reply, as in `phases.py`."""
    words = tokenizer()
    for pair in pairs:
        replies = (pair.chosen, pair.rejected)
        lengths = (encode(words, pair.prompt, r, max_length=MAX_LENGTH).length for r in replies)
        shaped = pair.model_dump(include={"prompt", "chosen", "rejected"})
        yield {"tokens": sum(lengths), "row": shaped}


SHAPED = {"sft": _conversations, "dpo": _pairs}


def _own(phase: str, options: argparse.Namespace) -> str:
    """Packed's line, of `benchmarks.speed` on the same rows."""
    command = [sys.executable, "-m", "benchmarks.speed", "--phase", phase]
    for name in ("model", "lengths", "steps", "warm_up", "gpu_memory_gib", "scratch"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    done = subprocess.run(
        [*command, "--engine", "packed:compile=true"], check=True, capture_output=True, text=True
    )
    return next(line for line in done.stdout.splitlines() if line.startswith(phase))


if __name__ == "__main__":
    main()
