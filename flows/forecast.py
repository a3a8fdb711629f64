"""Forecasts the time left in a run, from how long its steps and their phases have taken so far."""

from collections.abc import Callable, Mapping, Sequence

from alignment.pipeline.remaining import NOT_LAST
from alignment.pipeline.steps import STEPS, Step
from alignment.store.progress import Mark, Pace


class Forecast:
    """Seconds left in a run.

    A step is expected to take as long as the last one of its kind, in this run or in the store, for
    as much work. If there is none, its `nominal_seconds` are scaled by how long the steps built so
    far took compared with theirs.

    Args:
        steps: the steps of the run.
        history: seconds per unit of work of each kind, from the store.
        work: units of work of a step.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        history: Mapping[str, float],
        work: Callable[[Step], float] = lambda _: 1.0,
    ) -> None:
        self._remaining = {step.name: step for step in steps}  # by name: verdicts change keys
        self._seen, self._work = dict(history), work
        self._built: list[tuple[str, float]] = []
        self._pace = Pace()

    def started(self) -> None:
        """A step starts: forget the pace of the previous one."""
        self._pace = Pace()

    def finished(self, step: Step, seconds: float, *, reused: bool) -> None:
        """Remove a step from the list; if it was built, remember how long that took."""
        self._remaining.pop(step.name, None)
        if not reused:
            self._seen[step.stage] = seconds / self._work(step)
            self._built.append((step.stage, seconds))

    def within(self, step: Step, mark: Mark, spent: float) -> float | None:
        """Seconds left in the run while a step is running, `spent` seconds after its start.

        None until this machine has shown how long something takes: a pace, or a step that ended.
        """
        usual = max(self._usual(step, self._scale()) - spent, 1.0)
        left = self._pace.left(mark.phase, mark.done, mark.total, now=mark.time)
        if left is None and not self._seen:
            return None
        if left is None:
            left = usual
        elif mark.phase in NOT_LAST:
            left = max(left, usual)
        scale = self._scale((step.stage, spent + left))
        others = (other for name, other in self._remaining.items() if name != step.name)
        return left + sum(self._usual(other, scale) for other in others)

    def between(self) -> float | None:
        """Seconds left in the run between two steps; None like `within`."""
        if not self._seen:
            return None
        scale = self._scale()
        return sum(self._usual(step, scale) for step in self._remaining.values())

    def _usual(self, step: Step, scale: float) -> float:
        if step.stage in self._seen:
            return self._seen[step.stage] * self._work(step)
        return STEPS[step.stage].nominal_seconds * scale

    def _scale(self, *running: tuple[str, float]) -> float:
        """The ratio of measured to nominal step times on this machine."""
        built = (*self._built, *running)
        nominal = sum(STEPS[stage].nominal_seconds for stage, _ in built)
        return sum(seconds for _, seconds in built) / nominal if built else 1.0
