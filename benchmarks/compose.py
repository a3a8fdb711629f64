"""Merge against stack: what the stages between two trainings lose, and what they cost.

    python -m benchmarks.compose --model FOLDER --sft gsm8k.jsonl --round base.jsonl.gz ... \
        --seeds 0 1 2 --minutes 7 --out compose
    python -m benchmarks.compose --model 7b --tokenizer FOLDER --costs --steps 6 --out compose-7b

Each arm is a real run of the chain in this process, so a call that its time ended (exit code 75)
continues when it is repeated. Processes may share a folder: one for each seed up to `--last sft`,
then one for each arm of each seed; every call ends by collecting what all of them have measured.
Every model is measured as it was trained, as the next stage starts with it and as it would be
exported; figures go to results.json, the plot to compose.png.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignment.config.pipeline import PipelineConfig
from alignment.errors import Interrupted
from alignment.execution.provenance import hardware, libraries
from alignment.execution.run_step import build
from alignment.pipeline.chain import Chain, chain
from alignment.pipeline.step import model_of
from alignment.pipeline.steps import HandOver, Step, TrainDpo, TrainSft
from alignment.records import AdapterRef, Nf4
from alignment.store import durable
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.gain import figure
from benchmarks.memory import forget
from benchmarks.quality import EvaluationPrompts, Quality
from benchmarks.stage import GateResult, Stage, kept, measured
from benchmarks.workload import SHAPES, write_model

ARMS: dict[str, dict[str, Any]] = {
    "merge bf16": {"name": "merge", "dtype": "bfloat16"},
    "merge fp32": {"name": "merge", "dtype": "float32"},
    "stack": {"name": "stack"},
}
LOOSE = 1e9
"""A bound on the hand-over that stops nothing: the benchmark is there to see the figures."""


class Watched(Progress):
    """Says where a step is, and asks whatever trains to save and leave when the time is over."""

    def __init__(self, until: float, marks: Path, name: str) -> None:
        marks.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(marks)
        self._until, self._name, self._said = until, name, 0.0

    @property
    def asked_to_stop(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._until

    def mark(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """Write the mark down, and say one every half minute."""
        super().mark(phase, done, total, **numbers)
        if time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            _say(f"{self._name}: {phase} {done}/{total}", **numbers)


def main(arguments: Sequence[str] | None = None) -> list[Stage]:
    """Run what is asked for, or go on with it; print a row for each stage.

    Raises:
        Interrupted: the time is over; the same command continues.
    """
    asked = _parser().parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.until = time.monotonic() + 60 * asked.minutes
    if asked.model in SHAPES:
        asked.model = str(_random_model(asked.model, asked.out, asked.tokenizer))
    try:
        for seed in asked.seeds:
            for arm in asked.arms:
                for stage in run_arm(asked, arm, seed):
                    print(stage.row(), flush=True)
    finally:
        found = _collect(asked)
    return found


def run_arm(asked: argparse.Namespace, arm: str, seed: int) -> Iterator[Stage]:
    """The stages of one arm in order; what is in the store already is not built again.

    Raises:
        Interrupted: the time is over; the same command continues.
    """
    config = settings(asked, arm, seed)
    woven, store = chain(config), Store(root=config.store)
    data = (woven.conversations, *(round_.pairs for round_ in woven.rounds))
    for step in (woven.base, *(one for one in data if one is not None)):
        _build(asked, arm, seed, store, step)
    for train, handover in _stages(woven):
        _build(asked, arm, seed, store, train)
        _build(asked, arm, seed, store, handover)
        yield _measured(asked, arm, seed, _exam(asked, woven, store), train, handover)
        if train.name == asked.last:
            return


def _stages(woven: Chain) -> Iterator[tuple[TrainSft | TrainDpo, HandOver]]:
    assert isinstance(woven.sft, TrainSft)
    yield woven.sft, woven.handover
    yield from ((round_.train, round_.handover) for round_ in woven.rounds)


def _build(asked: argparse.Namespace, arm: str, seed: int, store: Store, step: Step) -> None:
    name = f"{step.name} of {arm}, seed {seed}"
    progress = Watched(asked.until, _marks(asked, step.key), name)
    if store.find(step.key) is None:
        if progress.asked_to_stop:
            raise Interrupted(f"time is over before {name}")
        forget()
        _say(f"{name}: begun")
    began = time.monotonic()
    build(store, step, progress)
    _say(f"{name}: there after {time.monotonic() - began:.1f} s")


def _exam(asked: argparse.Namespace, woven: Chain, store: Store) -> EvaluationPrompts:
    return EvaluationPrompts(
        woven=woven,
        store=store,
        folder=asked.out,
        pairs=asked.pairs,
        max_length=asked.max_length,
        dtype="bfloat16" if asked.bf16 else "float32",
        until=asked.until,
    )


def _measured(
    asked: argparse.Namespace,
    arm: str,
    seed: int,
    exam: EvaluationPrompts,
    train: Step,
    handover: Step,
) -> Stage:
    """The figures of one stage; kept in a file, from which a later call takes them."""
    name = f"{arm.replace(' ', '-')}-{seed}-{train.name}.json"

    def measure() -> Stage:
        return measured(
            arm,
            seed,
            training=exam.store.open(train.key),
            handover=exam.store.open(handover.key),
            marks=_marks(asked, train.key),
            views={} if asked.costs else _views(exam, train.key, handover.key),
        )

    return kept(asked.out / "stages" / name, handover.key, measure)


def _views(exam: EvaluationPrompts, adapter: str, handover: str) -> dict[str, Quality]:
    store = exam.store
    policy = model_of(store, store.open(handover).parents["policy"])
    trained = policy.push(AdapterRef.model_validate(store.open(adapter).output))
    return exam.views(trained, model_of(store, handover))


def _marks(asked: argparse.Namespace, key: str) -> Path:
    found: Path = asked.out / "marks" / f"{key}.jsonl"
    return found


def _say(words: str, **numbers: float) -> None:
    """A line with the time of day, for who waits."""
    figures = "".join(f"  {name} {value:.4g}" for name, value in numbers.items())
    print(f"{time.strftime('%H:%M:%S')} {words}{figures}", flush=True)


def settings(asked: argparse.Namespace, arm: str, seed: int) -> PipelineConfig:
    """The run of one arm: the seed's adapters and rates, unless the arguments say otherwise."""
    bound = {"max_gap": LOOSE} if ARMS[arm]["name"] == "stack" else {"max_kl": LOOSE}
    common = {
        "batch": {"per_device": asked.per_device, "accumulation": 16 // asked.per_device},
        "max_length": asked.max_length,
        "bf16": asked.bf16,
        "gradient_checkpointing": asked.bf16 and asked.checkpointing,
        "engine": {"name": asked.engine, **dict(asked.set_engine)},
        "samples": 0,
        "evaluation_rows": 0,
        "save_every": asked.save_every,
        "max_steps": asked.steps,
    }
    common = {name: value for name, value in common.items() if value is not None}
    share = {"held_out_share": 0.1, "limit": asked.rows}
    dtype = "bfloat16" if asked.bf16 else "float32"
    return PipelineConfig.model_validate(
        {
            "name": "compose",
            "seed": seed,
            "store": asked.out / "store",
            "model": {"name": "folder", "path": asked.model},
            "quantisation": Nf4(compute_dtype=dtype).model_dump(),
            "sft": {
                "name": "train",
                "data": {"sources": _sources(asked.sft, "sft"), **share},
                "training": {**common, "learning_rate": asked.scale * 2e-5},
            },
            "dpo": {
                **common,
                "learning_rate": asked.scale * 5e-6,
                "max_prompt_length": asked.max_length // 2,
            },
            "rounds": [
                {"data": {"sources": _sources([file] if file else [], f"round-{n}"), **share}}
                for n, file in enumerate(asked.rounds or [None] * 4, start=1)
            ],
            "gate": None,  # nothing is evaluated here, so nothing could be judged
            "compose": {**ARMS[arm], **bound},
        }
    )


def _collect(asked: argparse.Namespace) -> list[Stage]:
    """Whatever all calls with this folder have measured, in order, and results.json of it."""
    files = (asked.out / "stages").glob("*.json")
    found = [GateResult.model_validate_json(file.read_text()).figures for file in files]
    found.sort(key=lambda stage: (list(ARMS).index(stage.arm), stage.seed, stage.place))
    results = {
        "command": " ".join(["python -m benchmarks.compose", *sys.argv[1:]]),
        "libraries": libraries(),
        "hardware": hardware(),
        "stages": [stage.model_dump() for stage in found],
    }
    durable.replace("benchmark.results", asked.out / "results.json", json.dumps(results, indent=2))
    views = [stage for stage in found if stage.views]
    if any(stage.arm == "stack" for stage in views) and find_spec("matplotlib"):
        figure(views).savefig(asked.out / "compose.png", dpi=150)
    return found


def _sources(files: Sequence[Path], part: str) -> list[dict[str, Any]]:
    """The named files, or the practice set where none is named."""
    if not files:
        return [{"name": "practice", "part": part}]
    return [{"name": "file", "path": str(file)} for file in files]


def _random_model(shape: str, out: Path, tokenizer: Path | None) -> Path:
    """A shape with random weights: it costs what a trained one costs.

    A real tokenizer gives real text its real lengths; without one a word is a token.
    """
    from transformers import AutoTokenizer

    folder = write_model(shape, out / f"random-{shape}")
    if tokenizer is not None:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def _field(text: str) -> tuple[str, Any]:
    """`key=value` with the value as JSON, or as the text it is."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compose", description=__doc__)
    parser.add_argument(
        "--model", required=True, help="model folder, or a shape, as 7b, for random weights"
    )
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer for the shape")
    parser.add_argument("--sft", type=Path, action="append", default=[], help="conversations")
    parser.add_argument("--round", type=Path, action="append", dest="rounds", help="pairs, a file")
    parser.add_argument("--arms", nargs="+", default=["merge bf16", "stack"], choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="times the seed's rates")
    parser.add_argument("--rows", type=int, help="rows of each set; all by default")
    parser.add_argument("--steps", type=int, help="optimiser steps of each training")
    parser.add_argument("--pairs", type=int, default=1000, help="held-out pairs that are scored")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--per-device", type=int, default=8, help="rows of 16 in a forward pass")
    parser.add_argument("--engine", default="stock", choices=["stock", "packed"])
    parser.add_argument(
        "--set-engine", type=_field, nargs="+", default=[], metavar="KEY=VALUE", help="its fields"
    )
    parser.add_argument(
        "--no-checkpointing", action="store_false", dest="checkpointing", help="keep activations"
    )
    parser.add_argument("--save-every", type=int, help="optimiser steps between checkpoints")
    parser.add_argument("--last", help="stage to end with: sft, dpo-1, ...; the last by default")
    parser.add_argument("--fp32", action="store_false", dest="bf16", help="as a CPU wants it")
    parser.add_argument("--costs", action="store_true", help="time, bytes and memory alone")
    parser.add_argument("--minutes", type=float, default=7.0, help="then stop; repeat to continue")
    parser.add_argument("--out", type=Path, required=True, help="store, results.json, compose.png")
    return parser


if __name__ == "__main__":
    try:
        main()
    except Interrupted as stopped:
        print(f"{stopped}; the same command continues")
        sys.exit(Interrupted.exit_code)
