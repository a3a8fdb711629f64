"""One training and its hand-over as they were measured: what was lost between, and what it cost."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

from alignment.records import Frozen, StageRecord
from alignment.store import durable
from benchmarks.quality import Quality


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
    handover: dict[str, float]
    seconds: float
    step_seconds: float
    training_seconds: float
    written: int
    peak_gib: float | None

    @property
    def place(self) -> int:
        """Its place in the order of its arm."""
        return 0 if self.stage == "sft" else int(self.stage.rpartition("-")[2])

    def row(self) -> str:
        """For a person to read."""
        views = "  ".join(
            f"{name} {view.nll:.4f}/{view.accuracy:.3f}/{view.margin:+.3f}"
            for name, view in self.views.items()
        )
        lost = "  ".join(f"{name} {value:.3g}" for name, value in self.handover.items())
        return (
            f"{self.arm:<10} seed {self.seed} {self.stage:<6} {lost}"
            f"  hand-over {self.seconds:.1f} s {self.written / 1e6:.0f} MB"
            f"  step {self.step_seconds:.2f} s"
            + (f"  peak {self.peak_gib:.1f} GiB" if self.peak_gib is not None else "")
            + (f"\n    nll/accuracy/margin: {views}" if views else "")
        )


class GateResult(Frozen):
    """The figures of a stage as they lie in a file, and which hand-over they are of."""

    key: str
    figures: Stage


def measured(
    arm: str,
    seed: int,
    *,
    training: StageRecord,
    handover: StageRecord,
    marks: Path,
    views: dict[str, Quality],
) -> Stage:
    """The figures of one stage, from its records and the marks of its training."""
    return Stage(
        arm=arm,
        seed=seed,
        stage=training.name,
        views=views,
        handover={k: v for k, v in handover.metrics.items() if k != "peak_gpu_gib"},
        seconds=handover.seconds,
        step_seconds=_step_seconds(marks),
        training_seconds=training.seconds,
        written=sum(file.size for file in handover.files),
        peak_gib=training.metrics.get("peak_gpu_gib"),
    )


def kept(path: Path, key: str, measure: Callable[[], Stage]) -> Stage:
    """The figures of the hand-over with this key: the file's, or measured and then kept there."""
    if path.exists():
        known = GateResult.model_validate_json(path.read_text())
        if known.key == key:
            return known.figures
    found = measure()
    path.parent.mkdir(exist_ok=True)
    durable.replace("benchmark.stage", path, GateResult(key=key, figures=found).model_dump_json())
    return found


def _step_seconds(marks: Path) -> float:
    """The median time between two steps: neither the first, slow ones nor a pause weigh in."""
    rows = [json.loads(line) for line in marks.read_text().splitlines()]
    times = [row["time"] for row in rows if row["phase"] == "training"]
    gaps = [after - before for before, after in pairwise(times)]
    return median(gaps) if gaps else float("nan")
