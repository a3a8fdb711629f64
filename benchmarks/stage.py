"""Measurements of one training and its handover: what the handover lost, and what both cost."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.store import durable
from benchmarks.quality import Quality


class Stage(Frozen):
    """One training of one arm and its handover.

    Attributes:
        views: "trained"; "start", as the next stage loads it; "unquantised", the same in full
            weights, as evaluation loads it; "exported bf16", all deltas on the base, cast once.
        handover: kept share and divergence, from the record.
        seconds, step_seconds: duration of the handover; median duration of an optimiser step.
        training_seconds: duration of the training, including loading and preparation.
        written, peak_gib: bytes of the handover's artifact; peak GPU memory of the training.
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
        """Its position in the order of its arm."""
        return 0 if self.stage == "sft" else int(self.stage.rpartition("-")[2])

    def row(self) -> str:
        """The figures as text."""
        views = "  ".join(
            f"{name} {view.nll:.4f}/{view.accuracy:.3f}/{view.margin:+.3f}"
            for name, view in self.views.items()
        )
        lost = "  ".join(f"{name} {value:.3g}" for name, value in self.handover.items())
        return (
            f"{self.arm:<10} seed {self.seed} {self.stage:<6} {lost}"
            f"  handover {self.seconds:.1f} s {self.written / 1e6:.0f} MB"
            f"  step {self.step_seconds:.2f} s"
            + (f"  peak {self.peak_gib:.1f} GiB" if self.peak_gib is not None else "")
            + (f"\n    nll/accuracy/margin: {views}" if views else "")
        )


class StageFile(Frozen):
    """The cached figures of a stage, with the key of its handover."""

    key: str
    figures: Stage


def stage_of(
    arm: str,
    seed: int,
    *,
    training: StageRecord,
    handover: StageRecord,
    marks: Path,
    views: dict[str, Quality],
) -> Stage:
    """The figures of one stage, from its records and the progress marks of its training."""
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


def load_or_measure(path: Path, key: str, measure: Callable[[], Stage]) -> Stage:
    """The figures of the handover with this key: from the file, or measured and cached there."""
    if path.exists():
        cached = StageFile.model_validate_json(path.read_text())
        if cached.key == key:
            return cached.figures
    found = measure()
    path.parent.mkdir(exist_ok=True)
    durable.replace("benchmark.stage", path, StageFile(key=key, figures=found).model_dump_json())
    return found


def _step_seconds(marks: Path) -> float:
    """The median time between two steps, which slow first steps or a pause do not distort."""
    rows = [json.loads(line) for line in marks.read_text().splitlines()]
    times = [row["time"] for row in rows if row["phase"] == "training"]
    gaps = [after - before for before, after in pairwise(times)]
    return median(gaps) if gaps else float("nan")
