"""Labels by a reward model: a sequence classifier with one output, in padded batches."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from alignment.answers.answer import Answer
from alignment.candidates.records import ROWS, AnswerLabel, CandidatePrompt
from alignment.candidates.shared import shared_journal
from alignment.errors import ModelError
from alignment.models.chat_template import render
from alignment.models.folder import check_weights
from alignment.models.tokenizer import load_tokenizer
from alignment.records.text import Message
from alignment.scoring.ranks import Ranks
from alignment.store.journal import Journal
from alignment.store.progress import Progress
from alignment.store.workspace import Workspace

_log = logging.getLogger(__name__)


def label_by_reward_model(
    folder: Path,
    prompts: Mapping[str, CandidatePrompt],
    answers: Sequence[Answer],
    workspace: Workspace,
    progress: Progress,
    *,
    batch: int,
) -> list[AnswerLabel]:
    """All labels, after those that an earlier attempt has not made; shortest answers first.

    On several devices, each scores a share of the answers.

    Raises:
        ModelError: the folder holds no reward model, or one that computes no numbers.
        torch.OutOfMemoryError: a single answer does not fit in memory.
    """
    with shared_journal(workspace, ROWS, AnswerLabel) as journal:
        _label_missing(folder, prompts, answers, journal, progress, batch=batch)
    return journal.rows


def _label_missing(
    folder: Path,
    prompts: Mapping[str, CandidatePrompt],
    answers: Sequence[Answer],
    journal: Journal[AnswerLabel],
    progress: Progress,
    *,
    batch: int,
) -> None:
    ranks, done = Ranks.current(), {(row.prompt_id, row.sample) for row in journal.rows}
    missing = [answer for answer in answers if (answer.prompt_id, answer.sample) not in done]
    if not missing:
        return
    model, tokenizer = open_reward_model(folder)
    ids = {id(answer): _ids(tokenizer, prompts[answer.prompt_id], answer) for answer in missing}
    share = ranks.share([len(ids[id(answer)]) for answer in missing])
    waiting = sorted((missing[at] for at in share), key=lambda answer: len(ids[id(answer)]))
    while waiting:
        rows = waiting[:batch]
        try:
            scores = reward_scores(model, [ids[id(answer)] for answer in rows])
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            scores, batch = [], batch // 2
        if not scores:
            torch.cuda.empty_cache()
            _log.warning("Out of memory: scoring %d answers at a time from here on.", batch)
            continue
        for answer, score in zip(rows, scores, strict=True):
            if not math.isfinite(score):
                raise ModelError(
                    f"label.model: {folder} computes no numbers: its score of an answer to prompt "
                    f"{answer.prompt_id!r} is {score}. Look for broken weights."
                )
            journal.append(
                AnswerLabel(prompt_id=answer.prompt_id, sample=answer.sample, score=score)
            )
        waiting = waiting[len(rows) :]
        scored = ranks.counted(len(share) - len(waiting), len(missing))
        progress.update("scoring", len(done) + scored, len(answers))


def open_reward_model(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """A sequence classifier with one output, and its tokenizer.

    Raises:
        ModelError: it has several outputs, or the folder has no weights for its output.
    """
    check_weights(folder)
    cuda = torch.cuda.is_available()
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.bfloat16 if cuda else torch.float32,
        trust_remote_code=False,
        output_loading_info=True,
        **({"device_map": {"": torch.cuda.current_device()}} if cuda else {}),
    )
    if model.config.num_labels != 1:
        raise ModelError(
            f"label.model: {folder} has {model.config.num_labels} labels; a reward model has one."
        )
    if info["missing_keys"]:
        raise ModelError(
            f"label.model: {folder} has no weights for {min(info['missing_keys'])}: it is not a "
            "reward model."
        )
    tokenizer = load_tokenizer(folder)
    if model.config.pad_token_id is None:  # the score is that of the last other token
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


@torch.no_grad()
def reward_scores(model: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    """The scores of chats given as token ids, right-padded."""
    width, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logits = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
    ).logits
    found: list[float] = logits[:, 0].float().tolist()
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: CandidatePrompt, answer: Answer) -> list[int]:
    turns = (*prompt.prompt, Message(role="assistant", content=answer.answer))
    return render(tokenizer, turns)
