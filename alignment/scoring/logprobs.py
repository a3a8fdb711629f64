"""Log-probs of replies under a model, shared by training, evaluation and merge checks.

The LM head (`head.py`) is applied only at positions that predict a reply's tokens: full logits of
[rows, tokens, vocab] never exist. Not here: losses (`train/losses.py`). With the stock engine TRL
computes its own log-probs in training; a test compares the two.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.models.encoding import encode_completion
from alignment.models.rope import rope_limit
from alignment.records.text import Message, PreferencePair
from alignment.scoring.attention import use_packed_attention
from alignment.scoring.batches import MicroBatch, PackedRow, lay_out
from alignment.scoring.budget import Budget, Setting, scoring_budget
from alignment.scoring.head import Head, head_of, plain
from alignment.scoring.pairs import PairLogProbs
from alignment.scoring.ranks import Ranks

HEAD_ROWS = {"cpu": 1024, "cuda": 512}
"""Positions per call of the LM head. On a GPU 512 rows of 152,064 logits take 1.3 GB with their
gradient. A 7B layer takes as much at 4,096 tokens, so the head does not set the peak."""

Score = Callable[..., list[Tensor]]
"""A function like `reply_logprobs`, some of whose arguments may be given already."""


@dataclass(frozen=True)
class Completion:
    """One prompt and reply as token ids."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and reply together."""
        return len(self.prompt) + len(self.reply)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    reply: Sequence[Message],
    *,
    max_length: int,
) -> Completion:
    """Prompt and reply as the trainers encode them; the reply ends with its end-of-turn token.

    Text that the template adds after that token (a newline in ChatML) is not part of the reply.
    """
    encoded = encode_completion(tokenizer, prompt, reply)
    ((start, _),) = encoded.spans
    return Completion(tuple(encoded.ids[:start]), tuple(encoded.ids[start:max_length]))


def reply_logprobs(
    model: PreTrainedModel,
    rows: Sequence[Completion],
    *,
    batch: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Tensor]:
    """Log p of every reply token of every row, [reply tokens] each, fp32 on the CPU."""
    found: dict[int, Tensor] = {}
    head = head_of(model)
    for chunk, hidden in _hidden(model, rows, batch=batch):
        for row, states in zip(chunk, hidden, strict=True):
            full = _log_softmax(head, states)
            targets = full.new_tensor(rows[row].reply).long()
            found[row] = full.gather(1, targets[:, None])[:, 0].cpu()
        on_progress(len(found))
    return [found[row] for row in range(len(rows))]


def shared_logprobs(
    score: Score, rows: Sequence[Completion], *, on_progress: Callable[[int], None]
) -> list[Tensor]:
    """The scores of all rows; of several processes, each scores a share, and all get all.

    Adjacent rows with one prompt stay together. `score`: (rows, on_progress=...) to their scores.
    """
    ranks = Ranks.current()
    groups = [list(group) for _, group in groupby(rows, lambda row: row.prompt)]

    def find(share: Sequence[int]) -> list[list[Tensor]]:
        own = [row for at in share for row in groups[at]]
        scored = iter(score(own, on_progress=lambda n: on_progress(ranks.counted(n, len(rows)))))
        return [[next(scored) for _ in groups[at]] for at in share]

    sizes = [sum(row.length for row in group) for group in groups]
    return [scores for group in ranks.spread(sizes, find) for scores in group]


def pair_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    *,
    batch: int,
    max_length: int,
    score: Score = reply_logprobs,
) -> PairLogProbs:
    """Summed log-probs of both replies of each pair, [pairs] each, in nats, on the CPU."""
    rows = [
        encode(tokenizer, pair.prompt, reply, max_length=max_length)
        for pair in pairs
        for reply in (pair.chosen, pair.rejected)
    ]
    found = score(model, rows, batch=batch)
    sums = torch.tensor([row.sum().item() for row in found]).view(-1, 2)
    tokens = torch.tensor([len(row.reply) for row in rows]).view(-1, 2)
    return PairLogProbs(sums[:, 0], sums[:, 1], tokens[:, 0], tokens[:, 1])


def packed_reply_logprobs(
    model: PreTrainedModel,
    rows: Sequence[Completion],
    *,
    tokens: Setting,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Tensor]:
    """Like `reply_logprobs`, without padding; adjacent rows with one prompt compute it once.

    Raises:
        ModelError: the packed engine does not support the model's attention.
        TrainingError: a single row does not fit into memory.
    """
    use_packed_attention(model)
    device = next(model.parameters()).device
    limit = rope_limit(plain(model).config)
    packed_rows = [
        PackedRow(prompt, [row.reply for row in group])
        for (prompt, _), group in groupby(rows, lambda row: (row.prompt, _over(limit, row.length)))
    ]
    budget = scoring_budget(tokens, cuda=device.type == "cuda")
    pending = _grouped(budget, packed_rows, range(len(packed_rows)), limit)
    found: dict[int, Sequence[Tensor]] = {}
    was_training = model.training
    model.eval()
    while pending:
        group = pending[-1]
        micro = lay_out([packed_rows[at] for at in group])
        try:
            with torch.no_grad():
                values = predicted_logprobs(model, micro.to(device)).cpu()
        except torch.OutOfMemoryError:
            values = None
        if values is None:
            budget.halve([packed_rows[at].tokens for at in group])
            remaining = [at for rows_ in pending for at in rows_]
            pending = _grouped(budget, packed_rows, remaining, limit)
            continue
        pending.pop()
        replies = iter(values.split(micro.target_counts.tolist()))
        found.update({at: [next(replies) for _ in packed_rows[at].completions] for at in group})
        on_progress(sum(map(len, found.values())))
    model.train(was_training)
    return [reply for at in range(len(packed_rows)) for reply in found[at]]


def predicted_logprobs(model: Any, micro: MicroBatch) -> Tensor:
    """Log p of every target of a micro-batch, [predictions] of fp32, with gradients if enabled.

    Call `use_packed_attention` on the model first. The model's adapters take part.
    """
    hidden = _decoder(model)(
        input_ids=micro.ids[None],
        position_ids=micro.positions[None],
        # transformers uses a 4-D mask as given and does not build one of [tokens, tokens]
        attention_mask=micro.ids.new_ones(1, 1, 1, 1),
        use_cache=False,
        segments=micro.segments,
    ).last_hidden_state[0]
    states = hidden.index_select(0, micro.sources)
    size = HEAD_ROWS["cuda" if states.is_cuda else "cpu"]
    parts = zip(states.split(size), micro.targets.split(size), strict=True)
    head = head_of(model)
    if not torch.is_grad_enabled():
        return torch.cat([_target_logprobs(head, *part) for part in parts])
    return torch.cat(
        [checkpoint(_target_logprobs, head, *part, use_reentrant=False) for part in parts]
    )


def reply_distributions(
    model: PreTrainedModel, rows: Sequence[Completion], *, batch: int, head: Head | None = None
) -> list[Tensor]:
    """Log p over the whole vocabulary at every reply position: [reply tokens, vocab] per row.

    Args:
        model: a causal model.
        rows: prompts and replies.
        batch: rows per forward pass.
        head: default: the model's own.
    """
    found: dict[int, Tensor] = {}
    head = head or head_of(model)
    for chunk, hidden in _hidden(model, rows, batch=batch):
        for row, states in zip(chunk, hidden, strict=True):
            found[row] = _log_softmax(head, states).cpu()
    return [found[row] for row in range(len(rows))]


def _hidden(
    model: PreTrainedModel, rows: Sequence[Completion], *, batch: int
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Row numbers and, for each, the hidden states that predict its reply: [reply tokens, hidden].

    Rows of similar length share a batch. Padding is on the right, so positions need no shift.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda row: rows[row].length)
    limit = rope_limit(plain(model).config)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for chunk in _batches(order, [row.length for row in rows], batch, limit):
            ids, mask = _padded([rows[row] for row in chunk])
            states = _decoder(model)(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).last_hidden_state
            yield chunk, [_of_reply(states[i], rows[row]) for i, row in enumerate(chunk)]
    model.train(was_training)


def _of_reply(states: Tensor, row: Completion) -> Tensor:
    first = len(row.prompt) - 1  # the state at position t predicts token t + 1
    return states[first : first + len(row.reply)]


def _padded(rows: Sequence[Completion]) -> tuple[Tensor, Tensor]:
    width = max(row.length for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : row.length] = torch.tensor(row.prompt + row.reply)
        mask[i, : row.length] = 1
    return ids, mask


def _decoder(model: Any) -> Any:
    """The part below the LM head, adapters included."""
    return plain(model).get_decoder()


def _log_softmax(head: Head, states: Tensor) -> Tensor:
    return head(states).float().log_softmax(-1)


def _target_logprobs(head: Head, states: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(head(states).float(), targets, reduction="none")


def _over(limit: int | None, length: int) -> bool:
    return limit is not None and length > limit


def _batches(
    order: Sequence[int], lengths: Sequence[int], batch: int, limit: int | None
) -> Iterator[list[int]]:
    """Batches of rows in this order; none has rows both within and over the limit of the rope."""
    for over in (False, True):
        part = [row for row in order if _over(limit, lengths[row]) == over]
        yield from (part[start : start + batch] for start in range(0, len(part), batch))


def _grouped(
    budget: Budget, packed_rows: Sequence[PackedRow], pending: Sequence[int], limit: int | None
) -> list[list[int]]:
    """Group rows within the budget; no group has rows both within and over the rope's limit."""
    groups: list[list[int]] = []
    for over in (False, True):
        part = [at for at in pending if _over(limit, packed_rows[at].longest) == over]
        found = budget.groups([packed_rows[at].tokens for at in part])
        groups += [[part[at] for at in group] for group in found]
    return groups
