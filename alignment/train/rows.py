"""The rows of a training as the token ids that its trainer collates.

The trainers get ids, never text, so what is checked and measured is what is trained.
Not here: how a chat becomes ids (`models/encoding.py`), batches (`scoring/batches.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from alignment.errors import DataError
from alignment.models.encoding import IGNORED, encode_all, locate_completions, locate_replies
from alignment.records.text import Conversation, PreferencePair
from alignment.scoring.pairs import PairLogProbs

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
"""TRL's names for the columns with the reference's log-probs of both replies."""
_BATCH = 512
"""Rows per call of the tokenizer."""


def conversation_rows(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], *, max_length: int
) -> Dataset:
    """Conversations for SFT, truncated: `input_ids`, and `labels` that are ignored outside replies.

    Raises:
        DataError: a conversation's replies cannot be located, or do not begin within `max_length`.
    """
    return Dataset.from_list(list(_conversation_rows(tokenizer, conversations, max_length)))


def pair_rows(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    reference: PairLogProbs | None = None,
) -> Dataset:
    """Pairs for DPO: `prompt_ids`, `chosen_ids`, `rejected_ids`; the trainer truncates them.

    Args:
        tokenizer: the policy's.
        pairs: the pairs.
        reference: the reference's log-probs of the pairs, which become columns `REFERENCE`; None:
            the trainer computes them.

    Raises:
        DataError: a pair's replies cannot be located.
    """
    rows = Dataset.from_list(list(_pair_rows(tokenizer, pairs)))
    if reference is None:
        return rows
    values = (reference.chosen, reference.rejected)
    for name, column in zip(REFERENCE, values, strict=True):
        rows = rows.add_column(name, column.tolist())
    return rows


def _conversation_rows(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], limit: int
) -> Iterator[dict[str, Any]]:
    for rows in _batches(conversations):
        located = [_named(row, locate_replies, tokenizer, row.messages) for row in rows]
        for row, encoded in zip(rows, encode_all(tokenizer, located), strict=True):
            labels = encoded.labels()[:limit]
            if all(label == IGNORED for label in labels):
                raise DataError(
                    f"conversation {row.id} ({row.source}): its first reply begins after "
                    f"{encoded.spans[0][0]} tokens; raise max_length, which is {limit}"
                )
            yield {**_origin(row), "input_ids": list(encoded.ids[:limit]), "labels": labels}


def _pair_rows(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair]
) -> Iterator[dict[str, Any]]:
    for rows in _batches(pairs):
        located = [
            reply
            for row in rows
            for reply in _named(
                row, locate_completions, tokenizer, row.prompt, (row.chosen, row.rejected)
            )
        ]
        encoded = iter(encode_all(tokenizer, located))
        for row in rows:
            chosen, rejected = next(encoded), next(encoded)
            ((start, _),) = chosen.spans
            yield {
                **_origin(row),
                "prompt_ids": list(chosen.ids[:start]),
                "chosen_ids": list(chosen.ids[start:]),
                "rejected_ids": list(rejected.ids[start:]),
            }


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _origin(row: Conversation | PreferencePair) -> dict[str, str]:
    return {"id": row.id, "task_type": row.task_type, "source": row.source}


def _named(row: Conversation | PreferencePair, locate: Any, *arguments: Any) -> Any:
    """What `locate` finds; its errors name the row."""
    try:
        return locate(*arguments)
    except DataError as error:
        kind = "conversation" if isinstance(row, Conversation) else "pair"
        raise DataError(
            f"{kind} {row.id} ({row.source}): {error}. Prepare the data again."
        ) from error
