"""How long a run will still take, from what its steps and the phases of a step have taken."""

from collections import deque
from collections.abc import Mapping, Sequence

from alignment.pipeline.steps import STEPS, Step
from alignment.store.progress import Mark

OPENING = ("scoring",)
"""Phases after which a step goes on to another: of an evaluation."""


class Pace:
    """How long a phase will still take, at the pace of its last marks."""

    def __init__(self) -> None:
        self._phase = ""
        self._marks: deque[tuple[float, int]] = deque(maxlen=30)

    def left(self, phase: str, done: int, total: int, *, now: float) -> float | None:
        """Seconds that remain; None where nobody knows yet."""
        if phase != self._phase:
            self._phase = phase
            self._marks.clear()
        self._marks.append((now, done))
        since, before = self._marks[0]
        return (now - since) * (total - done) / (done - before) if total and done > before else None


class Forecast:
    """Seconds that remain of a run.

    A kind of step takes as long as it did last, here or on record. Where that is not known, its
    `nominal_seconds` are scaled by how long the steps that were built took against theirs.
    """

    def __init__(self, steps: Sequence[Step], history: Mapping[str, float]) -> None:
        self._left = {step.name: step.stage for step in steps}  # a verdict may change keys
        self._seen = dict(history)
        self._built: list[tuple[str, float]] = []
        self._pace = Pace()

    def started(self) -> None:
        """A step begins: what is known of the pace was the last one's."""
        self._pace = Pace()

    def finished(self, step: Step, seconds: float, *, reused: bool) -> None:
        """Take a step off the list, and learn from it if it was really built."""
        self._left.pop(step.name, None)
        if not reused:
            self._seen[step.stage] = seconds
            self._built.append((step.stage, seconds))

    def within(self, step: Step, mark: Mark, spent: float) -> float:
        """Seconds left of the run, its running step being `spent` seconds old and at a mark."""
        usual = max(self._usual(step.stage, self._scale()) - spent, 1.0)
        left = self._pace.left(mark.phase, mark.done, mark.total, now=mark.time)
        if left is None:
            left = usual
        elif mark.phase in OPENING:
            left = max(left, usual)
        scale = self._scale((step.stage, spent + left))
        others = (stage for name, stage in self._left.items() if name != step.name)
        return left + sum(self._usual(stage, scale) for stage in others)

    def between(self) -> float:
        """Seconds left of the run where no step is running."""
        scale = self._scale()
        return sum(self._usual(stage, scale) for stage in self._left.values())

    def _usual(self, stage: str, scale: float) -> float:
        return self._seen.get(stage, STEPS[stage].nominal_seconds * scale)

    def _scale(self, *running: tuple[str, float]) -> float:
        """How much longer steps take here than nominally."""
        built = (*self._built, *running)
        nominal = sum(STEPS[stage].nominal_seconds for stage, _ in built)
        return sum(seconds for _, seconds in built) / nominal if built else 1.0
