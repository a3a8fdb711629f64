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
import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from alignment.chain import Chain, chain
from alignment.config import PipelineConfig
from alignment.errors import Interrupted
from alignment.launch import build
from alignment.progress import Progress
from alignment.provenance import hardware, libraries
from alignment.records import AdapterRef, Frozen, ModelRef, PreferencePair, Quantisation
from alignment.stages import HandOver, Step, TrainDpo, TrainSft
from alignment.stages.step import data_of, model_of, rows_of
from alignment.store import Store
from benchmarks.workload import SHAPES, write_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARMS: dict[str, dict[str, Any]] = {
    "merge bf16": {"name": "merge", "dtype": "bfloat16"},
    "merge fp32": {"name": "merge", "dtype": "float32"},
    "stack": {"name": "stack"},
}
LOOSE = 1e9
"""A bound on the hand-over that stops nothing: the benchmark is there to see the figures."""


class Quality(Frozen):
    """One model on the held-out pairs.

    Attributes:
        nll, nll_gain: nats per token of the chosen replies, and how much less than the base's.
        accuracy: share of pairs whose chosen reply is the likelier one.
        margin: mean implicit reward of the chosen over the rejected reply, beta left out, nats.
    """

    nll: float
    nll_gain: float
    accuracy: float
    margin: float


class Stage(Frozen):
    """One training of one arm and its hand-over.

    Attributes:
        views: "trained"; "start", as the next stage loads it; "unquantised", the same in full
            weights, as evaluation sees it; "exported bf16", all deltas on the base, cast once.
        hand_over: kept share and distance, as the record has them.
        seconds, step_seconds: of the hand-over; of one optimiser step, the median.
        training_seconds: of the training, loading and preparing included.
        written, peak_gib: bytes of the hand-over's artifact; GPU memory of the training.
    """

    arm: str
    seed: int
    stage: str
    views: dict[str, Quality]
    hand_over: dict[str, float]
    seconds: float
    step_seconds: float
    training_seconds: float
    written: int
    peak_gib: float | None


class Kept(Frozen):
    """The figures of a stage as they lie in a file, and which hand-over they are of."""

    key: str
    figures: Stage


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
                    print(_row(stage), flush=True)
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
    for train, hand_over in _stages(woven):
        _build(asked, arm, seed, store, train)
        _build(asked, arm, seed, store, hand_over)
        yield _measured(asked, arm, seed, woven, store, train, hand_over)
        if train.name == asked.last:
            return


def _stages(woven: Chain) -> Iterator[tuple[TrainSft | TrainDpo, HandOver]]:
    assert isinstance(woven.sft, TrainSft)
    yield woven.sft, woven.hand_over
    yield from ((round_.train, round_.hand_over) for round_ in woven.rounds)


def _build(asked: argparse.Namespace, arm: str, seed: int, store: Store, step: Step) -> None:
    name = f"{step.name} of {arm}, seed {seed}"
    progress = Watched(asked.until, _marks(asked, step.key), name)
    if store.find(step.key) is None:
        if progress.asked_to_stop:
            raise Interrupted(f"time is over before {name}")
        _forget()
        _say(f"{name}: begun")
    began = time.monotonic()
    build(store, step, progress)
    _say(f"{name}: there after {time.monotonic() - began:.1f} s")


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
            "quantisation": Quantisation(compute_dtype=dtype).model_dump(),
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


def _forget() -> None:
    """Give back what the step before held on the GPU, and count its peak from here."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


# --- one stage -----------------------------------------------------------------------------------


def _measured(
    asked: argparse.Namespace,
    arm: str,
    seed: int,
    woven: Chain,
    store: Store,
    train: Step,
    hand_over: Step,
) -> Stage:
    """The figures of one stage; kept in a file, from which a later call takes them."""
    kept = asked.out / "stages" / f"{arm.replace(' ', '-')}-{seed}-{train.name}.json"
    if kept.exists():
        known = Kept.model_validate_json(kept.read_text())
        if known.key == hand_over.key:
            return known.figures
    found = _stage(asked, arm, seed, woven, store, train.key, hand_over.key)
    _put(kept, Kept(key=hand_over.key, figures=found).model_dump_json())
    return found


def _stage(
    asked: argparse.Namespace,
    arm: str,
    seed: int,
    woven: Chain,
    store: Store,
    adapter: str,
    hand_over: str,
) -> Stage:
    record, training = store.open(hand_over), store.open(adapter)
    policy = model_of(store, record.parents["policy"])
    trained = policy.push(AdapterRef.model_validate(training.output))
    views = {} if asked.costs else _views(asked, woven, store, trained, model_of(store, hand_over))
    return Stage(
        arm=arm,
        seed=seed,
        stage=training.name,
        views=views,
        hand_over={k: v for k, v in record.metrics.items() if k != "peak_gpu_gib"},
        seconds=record.seconds,
        step_seconds=_step_seconds(_marks(asked, adapter)),
        training_seconds=training.seconds,
        written=sum(file.size for file in record.files),
        peak_gib=training.metrics.get("peak_gpu_gib"),
    )


def _step_seconds(marks: Path) -> float:
    """The median time between two steps: neither the first, slow ones nor a pause weigh in."""
    rows = [json.loads(line) for line in marks.read_text().splitlines()]
    times = [row["time"] for row in rows if row["phase"] == "training"]
    gaps = [after - before for before, after in pairwise(times)]
    return median(gaps) if gaps else float("nan")


def _views(
    asked: argparse.Namespace, woven: Chain, store: Store, trained: ModelRef, start: ModelRef
) -> dict[str, Quality]:
    """One model as trained, as handed over and as exported, each against the base seen alike."""
    base = model_of(store, woven.base.key)
    dtype = "bfloat16" if asked.bf16 else "float32"
    return {
        "trained": _quality(asked, woven, store, trained, base, dtype, quantised=True),
        "start": _quality(asked, woven, store, start, base, dtype, quantised=True),
        "exported bf16": _quality(
            asked, woven, store, _as_bf16(asked, store, start), base, "float32", quantised=False
        ),
        "unquantised": _quality(asked, woven, store, start, base, "float32", quantised=False),
    }


def _as_bf16(asked: argparse.Namespace, store: Store, ref: ModelRef) -> ModelRef:
    """The model as its bfloat16 export would be: all deltas on the base, cast once."""
    from alignment.models.merge import plan_merge, write_merge
    from alignment.models.sources import describe

    if not ref.adapters and ref.base.dtype == "bfloat16":
        return ref  # its hand-over was that already
    folder = asked.out / "exported" / ref.ref_hash[:24]
    if not (folder / "done").exists():
        write_merge(
            plan_merge(ref), store=store, dtype="bfloat16", folder=folder, progress=Progress()
        )
        (folder / "done").touch()
    base, tokenizer = describe(folder, f"folder:{folder}", None)
    return ref.model_copy(update={"base": base, "tokenizer": tokenizer, "adapters": ()})


def _quality(
    asked: argparse.Namespace,
    woven: Chain,
    store: Store,
    ref: ModelRef,
    base: ModelRef,
    dtype: str,
    *,
    quantised: bool,
) -> Quality:
    chosen, rejected, tokens = _scores(asked, woven, store, ref, dtype, quantised=quantised)
    own_chosen, own_rejected, _ = _scores(asked, woven, store, base, dtype, quantised=quantised)
    pairs = list(zip(chosen, rejected, own_chosen, own_rejected, strict=True))
    return Quality(
        nll=-sum(chosen) / sum(tokens),
        nll_gain=(sum(chosen) - sum(own_chosen)) / sum(tokens),
        accuracy=sum(c > r for c, r, _, _ in pairs) / len(pairs),
        margin=sum((c - r) - (bc - br) for c, r, bc, br in pairs) / len(pairs),
    )


def _scores(
    asked: argparse.Namespace,
    woven: Chain,
    store: Store,
    ref: ModelRef,
    dtype: str,
    *,
    quantised: bool,
) -> tuple[list[float], list[float], list[int]]:
    """Summed log-probs of chosen and rejected held-out replies, and tokens; kept in a file."""
    from alignment.models.load import open_model
    from alignment.train.logprobs import encode

    name = f"{ref.ref_hash[:24]}-{dtype}-{quantised}-{woven.rounds[-1].pairs.key[-8:]}.json"
    kept = asked.out / "scores" / name
    if not kept.exists():
        if time.monotonic() > asked.until:
            raise Interrupted("time is over before the stage was scored")
        _forget()
        loaded = open_model(ref, store, dtype=dtype, quantised=quantised)
        rows = [
            encode(loaded.tokenizer, pair.prompt, reply, max_length=asked.max_length)
            for pair in _held_out(asked, woven, store)
            for reply in (pair.chosen, pair.rejected)
        ]
        engine = woven.rounds[0].train.config.engine
        sums = [float(row.sum()) for row in engine.reply_logprobs(loaded.model, rows, batch=16)]
        tokens = [len(row.reply) for row in rows[::2]]
        _put(kept, json.dumps([sums[::2], sums[1::2], tokens]))
    chosen, rejected, tokens = json.loads(kept.read_text())
    return chosen, rejected, tokens


def _held_out(asked: argparse.Namespace, woven: Chain, store: Store) -> Iterator[PreferencePair]:
    """As many held-out pairs of each round's set, so that none is left out of the score."""
    for round_ in woven.rounds:
        pairs = rows_of(store, [data_of(store, round_.pairs.key)], "held_out", PreferencePair)
        yield from islice(pairs, asked.pairs // len(woven.rounds))


# --- what is asked, and what is written ----------------------------------------------------------


def figure(found: Sequence[Stage]) -> "Figure":
    """Share of the stack's gain that each arm hands over, against the stage; a line per seed."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 3.5), layout="constrained")
    axes = drawn.subplots()
    stages = list(dict.fromkeys(stage.stage for stage in found))
    for colour, arm in enumerate(dict.fromkeys(stage.arm for stage in found)):
        for seed in sorted({stage.seed for stage in found}):
            kept = gain_kept(found, arm, seed)
            axes.plot(
                [stages.index(name) for name in kept],
                list(kept.values()),
                color=f"C{colour}",
                marker="o",
                label=arm if seed == found[0].seed else None,
            )
    axes.set_xticks(range(len(stages)), stages)
    axes.set_ylabel("gain handed over / the stack's")
    axes.axhline(1, color="0.8", zorder=0)
    axes.legend(frameon=False)
    return drawn


def gain_kept(found: Sequence[Stage], arm: str, seed: int) -> dict[str, float]:
    """Stage to the gain that an arm hands over, as a share of what the stack gained there.

    The gain of SFT is in NLL, which it trains; that of a round is the margin since SFT.
    """
    stack = {s.stage: s.views["trained"] for s in found if (s.arm, s.seed) == ("stack", seed)}
    own = {s.stage: s.views["start"] for s in found if (s.arm, s.seed) == (arm, seed)}
    kept = {}
    for name in own.keys() & stack.keys():
        if name == "sft":
            kept[name] = own[name].nll_gain / stack[name].nll_gain
        else:
            before = stack["sft"].margin
            kept[name] = (own[name].margin - before) / (stack[name].margin - before)
    return dict(sorted(kept.items(), key=lambda item: list(stack).index(item[0])))


def _row(stage: Stage) -> str:
    views = "  ".join(
        f"{name} {view.nll:.4f}/{view.accuracy:.3f}/{view.margin:+.3f}"
        for name, view in stage.views.items()
    )
    lost = "  ".join(f"{name} {value:.3g}" for name, value in stage.hand_over.items())
    return (
        f"{stage.arm:<10} seed {stage.seed} {stage.stage:<6} {lost}"
        f"  hand-over {stage.seconds:.1f} s {stage.written / 1e6:.0f} MB"
        f"  step {stage.step_seconds:.2f} s"
        + (f"  peak {stage.peak_gib:.1f} GiB" if stage.peak_gib is not None else "")
        + (f"\n    nll/accuracy/margin: {views}" if views else "")
    )


def _collect(asked: argparse.Namespace) -> list[Stage]:
    """Whatever all calls with this folder have measured, in order, and results.json of it."""
    files = (asked.out / "stages").glob("*.json")
    found = [Kept.model_validate_json(file.read_text()).figures for file in files]
    found.sort(key=lambda stage: (list(ARMS).index(stage.arm), stage.seed, _place(stage)))
    results = {
        "command": " ".join(["python -m benchmarks.compose", *sys.argv[1:]]),
        "libraries": libraries(),
        "hardware": hardware(),
        "stages": [stage.model_dump() for stage in found],
    }
    _put(asked.out / "results.json", json.dumps(results, indent=2))
    views = [stage for stage in found if stage.views]
    if any(stage.arm == "stack" for stage in views) and find_spec("matplotlib"):
        figure(views).savefig(asked.out / "compose.png", dpi=150)
    return found


def _put(path: Path, text: str) -> None:
    """Whole or not at all: other processes read the folder too."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _place(stage: Stage) -> int:
    return 0 if stage.stage == "sft" else int(stage.stage.rpartition("-")[2])


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
