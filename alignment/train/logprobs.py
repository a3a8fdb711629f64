"""Log-probs of replies under a model: what DPO's reference, evaluation and merge checks share.

The LM head sees only the positions that predict a reply's tokens: full logits of
[rows, tokens, vocab] never exist. Not here: losses, training (TRL computes its own log-probs;
a test holds the two against each other).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.data.encode import end_of_turn_id, render
from alignment.records import Message, PreferencePair
from alignment.train.losses import PairLogProbs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Completion:
    """One prompt and reply as token ids."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.reply)


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Sequence[Message],
    reply: Sequence[Message],
    *,
    max_length: int,
) -> Completion:
    """Prompt and reply as the trainers see them, the reply up to its last end-of-turn token.

    What a template writes after that token (a newline in ChatML) is not part of the answer.
    """
    prompt_ids = render(tokenizer, prompt, add_generation_prompt=True)
    whole = render(tokenizer, [*prompt, *reply], add_generation_prompt=False)
    stop = end_of_turn_id(tokenizer)
    end = len(whole) - whole[::-1].index(stop) if stop in whole else len(whole)
    start = min(len(prompt_ids), end - 1)
    return Completion(tuple(whole[:start]), tuple(whole[start : min(end, max_length)]))


def pair_logprobs(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[PreferencePair],
    *,
    batch: int,
    max_length: int,
) -> PairLogProbs:
    """Summed log-probs of both replies of each pair, [pairs] each, in nats, on the CPU."""
    import torch

    rows = [
        encode(tokenizer, pair.prompt, reply, max_length=max_length)
        for pair in pairs
        for reply in (pair.chosen, pair.rejected)
    ]
    sums = torch.tensor(
        [row.sum().item() for row in reply_logprobs(model, rows, batch=batch)]
    ).view(-1, 2)
    return PairLogProbs(chosen=sums[:, 0], rejected=sums[:, 1])


def reply_logprobs(
    model: "PreTrainedModel",
    rows: Sequence[Completion],
    *,
    batch: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> "list[Tensor]":
    """Log p of every reply token of every row, [reply tokens] each, fp32 on the CPU."""
    found: dict[int, Tensor] = {}
    for chunk, hidden in _hidden(model, rows, batch=batch):
        for row, states in zip(chunk, hidden, strict=True):
            full = _log_softmax(model, states)
            targets = full.new_tensor(rows[row].reply).long()
            found[row] = full.gather(1, targets[:, None])[:, 0].cpu()
        on_batch(len(found))
    return [found[row] for row in range(len(rows))]


def reply_distributions(
    model: "PreTrainedModel", rows: Sequence[Completion], *, batch: int
) -> "list[Tensor]":
    """Log p over the whole vocabulary at every reply position: [reply tokens, vocab] per row."""
    found: dict[int, Tensor] = {}
    for chunk, hidden in _hidden(model, rows, batch=batch):
        for row, states in zip(chunk, hidden, strict=True):
            found[row] = _log_softmax(model, states).cpu()
    return [found[row] for row in range(len(rows))]


def _hidden(
    model: "PreTrainedModel", rows: Sequence[Completion], *, batch: int
) -> "Iterator[tuple[list[int], list[Tensor]]]":
    """Row numbers and, for each, the hidden states that predict its reply: [reply tokens, hidden].

    Rows of similar length share a batch; right padding, so positions need no shift.
    """
    import torch

    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda row: rows[row].length)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            ids, mask = _padded([rows[row] for row in chunk])
            states = _decoder(model)(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).last_hidden_state
            yield chunk, [_of_reply(states[i], rows[row]) for i, row in enumerate(chunk)]
    model.train(was_training)


def _of_reply(states: "Tensor", row: Completion) -> "Tensor":
    first = len(row.prompt) - 1  # the state at position t predicts token t + 1
    return states[first : first + len(row.reply)]


def _padded(rows: Sequence[Completion]) -> "tuple[Tensor, Tensor]":
    import torch

    width = max(row.length for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : row.length] = torch.tensor(row.prompt + row.reply)
        mask[i, : row.length] = 1
    return ids, mask


def _decoder(model: Any) -> Any:
    """The part below the LM head, adapters included."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.get_decoder()


def _log_softmax(model: Any, states: "Tensor") -> "Tensor":
    logits: Tensor = model.get_output_embeddings()(states)
    return logits.float().log_softmax(-1)
