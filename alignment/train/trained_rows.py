"""Keeps the ids of the rows of every optimiser step, and each row's loss (SFT) or margin (DPO).

The values are those that the step computes anyway. They stay on the device until the step is
logged, when the library waits for the device as well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from alignment.models.encoding import IGNORED
from alignment.records.training import Measure, TrainedStep
from alignment.scoring.pairs import PairLogProbs
from alignment.store.durable import failpoint_span, flush, staged
from alignment.store.jsonl import as_line
from alignment.train.losses import PreferenceLoss
from alignment.train.rows import REFERENCE

NAMES = "names"
"""Batch key for the ids of its rows; no stock collator uses it."""
DIGITS = 5
PerRow = Callable[[Sequence[Tensor], Mapping[str, Tensor]], Tensor]
"""(summed log-probs of each pass, [sequences]; batch) to the measure of its rows, [rows]."""


class TrainedRows(TrainerCallback):
    """Appends a line to a file for each step that is logged.

    It is flushed before the checkpoint that relies on it, so this callback comes before the one
    that commits checkpoints. When a run resumes, the lines of steps that will be repeated go.
    """

    def __init__(self, path: Path, measure: Measure) -> None:
        self._path, self._measure = path, measure
        self._found: list[tuple[Sequence[str], Tensor]] = []
        self._steps: list[tuple[int, Sequence[str], Tensor]] = []

    def add(self, ids: Sequence[str], values: Tensor) -> None:
        """Note rows of the step that is being computed, and their measures, [rows]."""
        self._found.append((ids, values.detach()))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Drop the lines of steps after the checkpoint that training goes on from."""
        if self._path.exists():
            _keep(self._path, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the step."""
        ids = [name for names, _ in self._found for name in names]
        self._steps.append((state.global_step, ids, torch.cat([v for _, v in self._found])))
        self._found.clear()

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the steps since the last log."""
        lines = [as_line(self._line(*step)) for step in self._steps]
        self._steps.clear()
        if lines and state.is_world_process_zero:
            with failpoint_span("trained.append"), self._path.open("ab") as stream:
                stream.writelines(lines)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Flush what the checkpoint relies on."""
        if self._path.exists():
            flush("trained.flush", self._path)

    def _line(self, step: int, ids: Sequence[str], values: Tensor) -> TrainedStep:
        rounded = [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
        return TrainedStep(
            step=step,
            measure=self._measure,
            ids=tuple(ids),
            values=tuple(rounded),
        )


def with_names(collate: Callable[[Sequence[Mapping[str, Any]]], Any]) -> Any:
    """A collator that also gives the ids of the rows."""

    def collate_with_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**collate(rows), NAMES: [row["id"] for row in rows]}

    return collate_with_names


def recording(trainer_class: Any, rows: TrainedRows, per_row: PerRow) -> Any:
    """One of TRL's trainers, which adds each batch that it trains on to `rows`."""

    class RecordingTrainer(trainer_class):  # type: ignore[misc]  # the base is only known at run time
        data_collator: Any

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.data_collator = with_names(self.data_collator)

        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            ids = inputs.pop(NAMES)
            if not self.model.training:
                return super().compute_loss(model, inputs, *rest, **options)
            with _summed_logprobs(self.model) as sums:
                loss = super().compute_loss(model, inputs, *rest, **options)
            rows.add(ids, per_row(sums, inputs))
            return loss

    return RecordingTrainer


def loss_per_token(sums: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """The mean negative log-likelihood of each row's targets; its first token is none."""
    targets = (batch["labels"][:, 1:] != IGNORED).sum(dim=1).clamp(min=1)
    return -sums[0] / targets.to(sums[0].device)


def margins(loss: PreferenceLoss) -> PerRow:
    """The reward margins of a batch; TRL computes the policy, then a reference not given."""

    def margins(sums: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        tokens = batch["completion_mask"][:, 1:].sum(dim=1).to(sums[0].device).chunk(2)
        given = [batch[name].to(sums[0].device) for name in REFERENCE if name in batch]
        passes = [PairLogProbs(*each.float().chunk(2), *tokens) for each in sums]
        policy, reference = (*passes, PairLogProbs(*given, *tokens)) if given else passes
        return loss.rewards(policy, reference).ratio

    return margins


@contextmanager
def _summed_logprobs(model: Any) -> Iterator[list[Tensor]]:
    """Within the block, the log-probs of each pass through a model, summed over each sequence."""
    sums: list[Tensor] = []

    def note(_module: Any, _inputs: Any, output: Any) -> None:
        sums.append(output.log_probs.detach().sum(dim=1))  # TRL's: 0 where there is no target

    hook = model.register_forward_hook(note)
    try:
        yield sums
    finally:
        hook.remove()


def _keep(path: Path, last: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]  # the last one may be truncated
    steps = (TrainedStep.model_validate_json(line).step for line in whole)
    with staged("trained.trim", path) as kept:
        kept.write_bytes(b"".join(line for line, n in zip(whole, steps, strict=True) if n <= last))
        flush("trained.kept", kept)
