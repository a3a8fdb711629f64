"""Callbacks of a training run: progress, checkpoints, stopping, sample replies, per-task rewards.

Each is a `transformers.TrainerCallback` with one job; the trainers know none of them.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, ones, zeros
from transformers import PreTrainedTokenizerBase, TrainerCallback

from alignment.answers.ask import generate
from alignment.errors import TrainingError
from alignment.records.text import Message, PreferencePair
from alignment.scoring.engine import Engine, Stock
from alignment.scoring.pairs import PairLogProbs
from alignment.scoring.ranks import Ranks
from alignment.store.durable import failpoint_span, flush, staged
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace
from alignment.train.autotune import random_state, set_random_state
from alignment.train.checkpoints import commit_checkpoint
from alignment.train.losses import Loss


class ProgressCallback(TrainerCallback):
    """Reports progress after every step, commits checkpoints, and stops training on request.

    Raises (inside training):
        TrainingError: the loss is not a finite number.
    """

    def __init__(self, workspace: Workspace, progress: Progress, *, phase: str) -> None:
        self._workspace, self._progress, self._phase = workspace, progress, phase

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Report the step as progress, with what was logged of it or of an evaluation."""
        numbers = {n: float(v) for n, v in (logs or {}).items() if isinstance(v, int | float)}
        loss = numbers.get("loss")
        if loss is None and "eval_loss" not in numbers:
            return
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {state.global_step}. Lower learning_rate, or look "
                f"for broken rows: sft-dpo trace {self._workspace.folder.name} --step "
                f"{state.global_step} names those of this step. The last checkpoint is kept."
            )
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._progress.mark(self._phase, state.global_step, state.max_steps, **finite)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save a checkpoint and stop, if requested of any process of this training."""
        if Ranks.current().agree(args.device, on=self._progress.asked_to_stop):
            self._progress.ask_to_stop()
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Commit the checkpoint, once every process of this training has written its part."""
        ranks = Ranks.current()
        ranks.wait(args.device)
        if ranks.number:
            return
        staged = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        saved = commit_checkpoint(staged, self._workspace.checkpoints, step=state.global_step)
        if self._workspace.copies is not None:
            self._workspace.copies.add(saved)


class SampleGenerationCallback(TrainerCallback):
    """Writes greedy replies to a few prompts for people to read: before training, at evaluations.

    Each reply is one JSON line in `path`: step, prompt, reply. Step 0 is the model as it was. When
    a run resumes, rows written after its checkpoint are dropped, so that none appears twice.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[tuple[Message, ...]],
        path: Path,
        *,
        max_new_tokens: int,
    ) -> None:
        self._tokenizer, self._prompts, self._path = tokenizer, prompts, path
        self._max_new_tokens = max_new_tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Drop the rows of evaluations that will be repeated; sample once before the first step."""
        evaluated = {row["step"] for row in state.log_history if "eval_loss" in row}
        _keep(self._path, {0, *evaluated} if state.global_step else set())
        if not state.global_step and self._prompts:
            self._sample(parts["model"], step=0)

    def on_evaluate(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Generate a reply to every prompt and append the replies."""
        self._sample(parts["model"], step=state.global_step)

    def _sample(self, model: Any, *, step: int) -> None:
        replies = generate(
            model,
            self._tokenizer,
            self._prompts,
            max_new_tokens=self._max_new_tokens,
            batch=8,
        )
        with failpoint_span("samples.append"), self._path.open("a", encoding="utf-8") as stream:
            for prompt, reply in zip(self._prompts, replies, strict=True):
                row = {"step": step, "prompt": prompt[-1].content}
                stream.write(json.dumps({**row, "reply": reply.text}) + "\n")
        flush("samples.flush", self._path)  # durable before the checkpoint that relies on them


class UndisturbedTraining(TrainerCallback):
    """Restores the random state after each evaluation, so that watching changes no training.

    Opening the evaluation's data loader draws a number from the generator that dropout uses on a
    CPU and that orders the next epoch. Comes after the callbacks that evaluate.
    """

    def __init__(self) -> None:
        self._before: list[Tensor] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Note the state if an evaluation follows this step."""
        self._before = random_state(parts["model"]) if control.should_evaluate else None

    def on_evaluate(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Restore it."""
        if self._before is not None:
            set_random_state(parts["model"], self._before)


class RewardsByTaskCallback(TrainerCallback):
    """Reward margin and accuracy of held-out pairs, per task_type and per source.

    At each evaluation every pair is scored with the adapter enabled, and unless the reference's
    log-probs are given, with it disabled; the loss defines the reward. Logged as
    `eval_rewards/margins/<task_type>` etc.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Sequence[PreferencePair],
        loss: Loss,
        *,
        batch: int,
        max_length: int,
        engine: Engine = Stock(),
        reference: PairLogProbs | None = None,
    ) -> None:
        self._pairs, self._loss, self._reference = pairs, loss, reference
        self._scored = partial(
            engine.pair_logprobs,
            tokenizer=tokenizer,
            pairs=pairs,
            batch=batch,
            max_length=max_length,
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Score every pair under policy and reference."""
        model = parts["model"]
        policy = self._scored(model)
        reference = self._reference or self._without_adapter(model)
        margins = self._loss.rewards(policy, reference).ratio.tolist()
        row = {f"eval_rewards/{name}": value for name, value in _grouped(self._pairs, margins)}
        state.log_history.append({"step": state.global_step, **row})

    def _without_adapter(self, model: Any) -> PairLogProbs:
        with model.disable_adapter():
            return self._scored(model)


def loss_at_start(loss: Loss) -> float:
    """The loss where policy and reference agree, whatever they say."""
    same = PairLogProbs(zeros(1), zeros(1), ones(1), ones(1))
    return float(loss(same, same))


def check_start(loss: Loss, measured: float, *, tolerance: float) -> None:
    """Refuse a DPO round whose policy and reference differ before the first step.

    A fresh adapter adds exactly zero, so the loss must be that of a zero margin (ln 2 for
    sigmoid). Anything else means that the reference is not the round's starting model.

    Raises:
        TrainingError: the losses differ; the message gives both.
    """
    expected = loss_at_start(loss)
    if not abs(measured - expected) <= tolerance * max(1.0, expected):  # `not <=` also refuses NaN
        raise TrainingError(
            f"the {loss.name} loss before the first step is {measured:.6f}, expected "
            f"{expected:.6f}: policy and reference are not the same model. Nothing was trained. "
            "Rebuild the round's starting model, or report this."
        )


def _grouped(pairs: Sequence[PreferencePair], margins: Sequence[float]) -> list[tuple[str, float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for pair, margin in zip(pairs, margins, strict=True):
        groups[pair.task_type].append(margin)
        groups[f"source:{pair.source}"].append(margin)
    return [
        entry
        for name, values in sorted(groups.items())
        for entry in (
            (f"margins/{name}", sum(values) / len(values)),
            (f"accuracies/{name}", sum(value > 0 for value in values) / len(values)),
        )
    ]


def _keep(path: Path, steps: set[int]) -> None:
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # the last one may be truncated
    with staged("samples.trim", path) as kept:
        kept.write_text("".join(line for line in whole if json.loads(line)["step"] in steps))
        flush("samples.kept", kept)
