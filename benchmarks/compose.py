"""Compares merge and stack: what the handovers between trainings lose, and what they cost.

    python -m benchmarks.compose --model FOLDER --sft gsm8k.jsonl --round base.jsonl.gz ... \
        --seeds 0 1 2 --minutes 7 --out compose
    python -m benchmarks.compose --model 7b --tokenizer FOLDER --costs --steps 6 --out compose-7b

Each arm is a real run of the chain in this process. A call that reaches its time limit exits with
code 75; repeat it to continue. Several processes may share a folder: one per seed up to
`--last sft`, then one per arm and seed. Every call ends by collecting the results of all of them.
Every model is measured as trained, as the next stage loads it and as it would be exported. Figures
go to results.json, the plot to compose.png.
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
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.step import model_of
from alignment.pipeline.steps import HandOver, Step, TrainDpo, TrainSft
from alignment.records.refs import AdapterRef, Nf4
from alignment.store import durable
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.gain import figure
from benchmarks.like_a_step import restart_like_a_step
from benchmarks.memory import free_memory
from benchmarks.quality import Quality, QualityEvaluation
from benchmarks.stage import Stage, StageFile, load_or_measure, stage_of
from benchmarks.workload import SHAPES, write_model

ARMS: dict[str, dict[str, Any]] = {
    "merge bf16": {"name": "merge", "dtype": "bfloat16"},
    "merge fp32": {"name": "merge", "dtype": "float32"},
    "stack": {"name": "stack"},
}
LOOSE = 1e9
"""A handover limit that never stops the run: the benchmark wants to see the figures."""


class DeadlineProgress(Progress):
    """Logs the progress of a step, and stops training with a checkpoint at the time limit."""

    def __init__(self, until: float, marks: Path, name: str) -> None:
        marks.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(marks)
        self._until, self._name, self._logged_at = until, name, 0.0

    @property
    def asked_to_stop(self) -> bool:
        """Whether the time limit has been reached."""
        return time.monotonic() > self._until

    def mark(self, phase: str, done: int, total: int, **numbers: float) -> None:
        """Write the mark to its file, and log one every half minute."""
        super().mark(phase, done, total, **numbers)
        if time.monotonic() - self._logged_at > 30:
            self._logged_at = time.monotonic()
            _log(f"{self._name}: {phase} {done}/{total}", **numbers)


def main(arguments: Sequence[str] | None = None) -> list[Stage]:
    """Run the arms, or continue them; print a row for each stage.

    Raises:
        Interrupted: the time limit was reached; the same command continues.
    """
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.until = time.monotonic() + 60 * options.minutes
    if options.model in SHAPES:
        options.model = str(_random_model(options.model, options.out, options.tokenizer))
    try:
        for seed in options.seeds:
            for arm in options.arms:
                for stage in run_arm(options, arm, seed):
                    print(stage.row(), flush=True)
    finally:
        found = _collect(options)
    return found


def run_arm(options: argparse.Namespace, arm: str, seed: int) -> Iterator[Stage]:
    """The stages of one arm in order; steps already in the store are not built again.

    Raises:
        Interrupted: the time limit was reached; the same command continues.
    """
    config = settings(options, arm, seed)
    arm_chain, store = chain(config), config.open_store()
    data = (arm_chain.conversations, *(round_.pairs for round_ in arm_chain.rounds))
    for step in (arm_chain.base, *(one for one in data if one is not None)):
        _build(options, arm, seed, store, step)
    for train, handover in _stages(arm_chain):
        _build(options, arm, seed, store, train)
        _build(options, arm, seed, store, handover)
        yield _measured(options, arm, seed, _evaluation(options, arm_chain, store), train, handover)
        if train.name == options.last:
            return


def _stages(arm_chain: Chain) -> Iterator[tuple[TrainSft | TrainDpo, HandOver]]:
    assert isinstance(arm_chain.sft, TrainSft)
    yield arm_chain.sft, arm_chain.handover
    yield from ((round_.train, round_.handover) for round_ in arm_chain.rounds)


def _build(options: argparse.Namespace, arm: str, seed: int, store: Store, step: Step) -> None:
    name = f"{step.name} of {arm}, seed {seed}"
    progress = DeadlineProgress(options.until, _marks(options, step.key), name)
    if store.find(step.key) is None:
        if progress.asked_to_stop:
            raise Interrupted(f"time limit reached before {name}")
        free_memory()
        _log(f"{name}: started")
    started = time.monotonic()
    build(store, step, progress)
    _log(f"{name}: done after {time.monotonic() - started:.1f} s")


def _evaluation(options: argparse.Namespace, arm_chain: Chain, store: Store) -> QualityEvaluation:
    return QualityEvaluation(
        chain=arm_chain,
        store=store,
        folder=options.out,
        pairs=options.pairs,
        max_length=options.max_length,
        dtype="bfloat16" if options.bf16 else "float32",
        until=options.until,
    )


def _measured(
    options: argparse.Namespace,
    arm: str,
    seed: int,
    evaluation: QualityEvaluation,
    train: Step,
    handover: Step,
) -> Stage:
    """The figures of one stage, cached in a file for later calls."""
    name = f"{arm.replace(' ', '-')}-{seed}-{train.name}.json"

    def measure() -> Stage:
        return stage_of(
            arm,
            seed,
            training=evaluation.store.open(train.key),
            handover=evaluation.store.open(handover.key),
            marks=_marks(options, train.key),
            views={} if options.costs else _views(evaluation, train.key, handover.key),
        )

    return load_or_measure(options.out / "stages" / name, handover.key, measure)


def _views(evaluation: QualityEvaluation, adapter: str, handover: str) -> dict[str, Quality]:
    store = evaluation.store
    policy = model_of(store, store.open(handover).parents["policy"])
    trained = policy.push(AdapterRef.model_validate(store.open(adapter).output))
    return evaluation.views(trained, model_of(store, handover))


def _marks(options: argparse.Namespace, key: str) -> Path:
    found: Path = options.out / "marks" / f"{key}.jsonl"
    return found


def _log(text: str, **numbers: float) -> None:
    """Print a line with the time of day."""
    figures = "".join(f"  {name} {value:.4g}" for name, value in numbers.items())
    print(f"{time.strftime('%H:%M:%S')} {text}{figures}", flush=True)


def settings(options: argparse.Namespace, arm: str, seed: int) -> PipelineConfig:
    """The run of one arm: the reference recipe, unless the options change it."""
    bound = {"max_gap": LOOSE} if ARMS[arm]["name"] == "stack" else {"max_kl": LOOSE}
    common = {
        "batch": {"per_device": options.per_device, "accumulation": 16 // options.per_device},
        "max_length": options.max_length,
        "bf16": options.bf16,
        "gradient_checkpointing": options.bf16 and options.checkpointing,
        "engine": {"name": options.engine, **dict(options.set_engine)},
        "samples": 0,
        "evaluation_rows": 0,
        "save_every": options.save_every,
        "max_steps": options.steps,
    }
    common = {name: value for name, value in common.items() if value is not None}
    share = {"held_out_share": 0.1, "limit": options.rows}
    dtype = "bfloat16" if options.bf16 else "float32"
    return PipelineConfig.model_validate(
        {
            "name": "compose",
            "seed": seed,
            "store": options.out / "store",
            "model": {"name": "folder", "path": options.model},
            "quantisation": Nf4(compute_dtype=dtype).model_dump(),
            "sft": {
                "name": "train",
                "data": {"sources": _sources(options.sft, "sft"), **share},
                "training": {**common, "learning_rate": options.scale * 2e-5},
            },
            "dpo": {
                **common,
                "learning_rate": options.scale * 5e-6,
                "max_prompt_length": options.max_length // 2,
            },
            "rounds": [
                {"data": {"sources": _sources([file] if file else [], f"round-{n}"), **share}}
                for n, file in enumerate(options.rounds or [None] * 4, start=1)
            ],
            "gate": None,  # nothing is evaluated here, so there is nothing to gate on
            "compose": {**ARMS[arm], **bound},
        }
    )


def _collect(options: argparse.Namespace) -> list[Stage]:
    """Collect the stages that all calls with this folder have measured; write results.json."""
    files = (options.out / "stages").glob("*.json")
    found = [StageFile.model_validate_json(file.read_text()).figures for file in files]
    found.sort(key=lambda stage: (list(ARMS).index(stage.arm), stage.seed, stage.place))
    results = {
        "command": " ".join(["python -m benchmarks.compose", *sys.argv[1:]]),
        "libraries": libraries(),
        "hardware": hardware(),
        "stages": [stage.model_dump() for stage in found],
    }
    durable.replace(
        "benchmark.results", options.out / "results.json", json.dumps(results, indent=2)
    )
    views = [stage for stage in found if stage.views]
    if any(stage.arm == "stack" for stage in views) and find_spec("matplotlib"):
        figure(views).savefig(options.out / "compose.png", dpi=150)
    return found


def _sources(files: Sequence[Path], part: str) -> list[dict[str, Any]]:
    """The given files, or the practice set if there are none."""
    if not files:
        return [{"name": "practice", "part": part}]
    return [{"name": "file", "path": str(file)} for file in files]


def _random_model(shape: str, out: Path, tokenizer: Path | None) -> Path:
    """A model of a shape with random weights, which costs the same as a trained one.

    A real tokenizer gives real text its real length; without one, each word is a token.
    """
    from transformers import AutoTokenizer

    folder = write_model(shape, out / f"random-{shape}")
    if tokenizer is not None:
        found = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
        found.save_pretrained(folder)
    return folder


def _field(text: str) -> tuple[str, Any]:
    """Split `key=value`; the value is parsed as JSON, or else kept as text."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compose", description=__doc__)
    parser.add_argument(
        "--model", required=True, help="model folder, or a shape such as 7b for random weights"
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder, if --model is a shape")
    parser.add_argument(
        "--sft", type=Path, action="append", default=[], help="file of conversations"
    )
    parser.add_argument("--round", type=Path, action="append", dest="rounds", help="file of pairs")
    parser.add_argument("--arms", nargs="+", default=["merge bf16", "stack"], choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the learning rates")
    parser.add_argument("--rows", type=int, help="rows of each set; default: all")
    parser.add_argument("--steps", type=int, help="optimiser steps of each training")
    parser.add_argument("--pairs", type=int, default=1000, help="held-out pairs to score")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--per-device", type=int, default=8, help="rows (of 16) per forward pass")
    parser.add_argument("--engine", default="stock", choices=["stock", "packed"])
    parser.add_argument(
        "--set-engine",
        type=_field,
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="engine fields",
    )
    parser.add_argument(
        "--no-checkpointing", action="store_false", dest="checkpointing", help="keep activations"
    )
    parser.add_argument("--save-every", type=int, help="optimiser steps between checkpoints")
    parser.add_argument("--last", help="last stage to run: sft, dpo-1, ...; default: all")
    parser.add_argument("--fp32", action="store_false", dest="bf16", help="use fp32, for a CPU")
    parser.add_argument("--costs", action="store_true", help="only time, bytes and memory")
    parser.add_argument("--minutes", type=float, default=7.0, help="time limit; repeat to continue")
    parser.add_argument("--out", type=Path, required=True, help="store, results.json, compose.png")
    return parser


if __name__ == "__main__":
    restart_like_a_step("benchmarks.compose")
    try:
        main()
    except Interrupted as stopped:
        print(f"{stopped}; the same command continues")
        sys.exit(Interrupted.exit_code)
