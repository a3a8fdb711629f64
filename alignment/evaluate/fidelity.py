"""Hand a trained model over by merging it, and measure how far the result is from it.

The model as trained (base, perhaps quantised, and adapter) and the merged folder as the next
stage loads it see the same few held-out replies; their distance goes into the record.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.models.load import open_model
from alignment.models.merge import Merge, plan_merge, write_merge
from alignment.models.sources import describe
from alignment.progress import Progress
from alignment.records import Conversation, Materialised, ModelRef
from alignment.store import Store
from alignment.train.logprobs import Completion, encode, reply_distributions

if TYPE_CHECKING:
    from torch import Tensor

PROBE_LENGTH = 4096
"""Longest prompt and reply of a probe, in tokens."""
PROBE_TOKENS = 512
"""Reply tokens in a probe: full distributions of that many fit in memory at any vocabulary."""


def hand_over(
    trained: ModelRef,
    config: Merge,
    *,
    store: Store,
    probes: Sequence[Conversation],
    probe_dtype: str,
    folder: Path,
    uri: str,
    progress: Progress,
) -> ModelRef:
    """Merge `trained` into `folder` and return the reference to it, distance included.

    Args:
        trained: the model as it was trained, its newest adapter on top.
        config: dtype of the weights written.
        store: resolves the references.
        probes: conversations whose last replies are the probe.
        probe_dtype: compute dtype of both probes, that of training.
        folder: gets weights and tokenizer.
        uri: by which the reference will name `folder`.
        progress: told of every adapter added.
    """
    before, rows = _probe(trained, store, probes, dtype=probe_dtype)
    deltas = plan_merge(trained)
    kept = write_merge(deltas, store=store, dtype=config.dtype, folder=folder, progress=progress)
    base, tokenizer = describe(folder, f"folder:{folder}", None)
    written = trained.model_copy(update={"base": base, "tokenizer": tokenizer, "adapters": ()})
    after, _ = _probe(written, store, probes, dtype=probe_dtype)
    return written.model_copy(
        update={
            "base": base.model_copy(update={"uri": uri}),
            "tokenizer": tokenizer.model_copy(update={"uri": uri}),
            "derived_from": trained.ref_hash,
            "materialised": Materialised(
                dtype=config.dtype,
                origin=deltas.origin,
                deltas=deltas.adapters,
                kept_share=kept,
                probe=distance(before, after, rows),
            ),
        }
    )


def probe_rows(rows: Sequence[Completion]) -> list[Completion]:
    """The first rows whose replies have `PROBE_TOKENS` tokens together; at least one."""
    kept: list[Completion] = []
    tokens = 0
    for row in rows:
        tokens += len(row.reply)
        if kept and tokens > PROBE_TOKENS:
            break
        kept.append(row)
    return kept


def distance(
    trained: "Sequence[Tensor]", loaded: "Sequence[Tensor]", rows: Sequence[Completion]
) -> dict[str, float]:
    """Distance of a loaded model from the one that was trained.

    Returns:
        `mean_abs_logprob`: mean |difference| of a reply token's log-prob, nats;
        `kl`: mean KL(trained || loaded) per reply token, nats;
        `top1`: share of reply positions where both put the same token first.
    """
    import torch

    first, second = torch.cat(list(trained)), torch.cat(list(loaded))
    targets = torch.tensor([token for row in rows for token in row.reply])[:, None]
    gap = (first.gather(1, targets) - second.gather(1, targets)).abs()
    kl = (first.exp() * (first - second)).sum(1)
    return {
        "mean_abs_logprob": float(gap.mean()),
        "kl": float(kl.mean()),
        "top1": float((first.argmax(1) == second.argmax(1)).float().mean()),
    }


def _probe(
    ref: ModelRef, store: Store, probes: Sequence[Conversation], *, dtype: str
) -> "tuple[list[Tensor], list[Completion]]":
    """Distributions of a reference at the probe's reply positions, and the probe itself."""
    loaded = open_model(ref, store, dtype=dtype)
    rows = probe_rows(
        [
            encode(loaded.tokenizer, row.messages[:-1], row.messages[-1:], max_length=PROBE_LENGTH)
            for row in probes
        ]
    )
    return reply_distributions(loaded.model, rows, batch=8), rows
