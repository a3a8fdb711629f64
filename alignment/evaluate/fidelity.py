"""Hand a trained model to the next stage, and stop when it is not the model that was trained.

The stage that trained it left a probe; the model is loaded here as the next stage will load it
and looks at the same tokens. A stack computes what was trained, bit for bit; a merge is rounded,
perhaps quantised again, and must stay within a bound.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alignment.errors import TrainingError
from alignment.evaluate.probe import Probe, distance
from alignment.models.load import open_model
from alignment.models.merge import Merge, plan_merge, write_merge
from alignment.models.sources import describe
from alignment.models.stack import Stack
from alignment.progress import Progress
from alignment.records import Materialised, ModelRef
from alignment.store import Store

STACK_GAP = {"float32": 0.0, "bfloat16": 0.05}
"""Largest mean |difference| of a stack's log-probs by compute dtype, unless configured."""
WORTH_A_WARNING = 0.95
"""Kept share of the training's change below which a merge says what to do about it."""


@dataclass(frozen=True)
class Place:
    """Where a model is handed over.

    Attributes:
        store: resolves references.
        folder: gets weights and tokenizer, where some are written.
        uri: by which the reference will name `folder`.
        dtype: compute dtype of the next stage.
        progress: told of every adapter added.
    """

    store: Store
    folder: Path
    uri: str
    dtype: str
    progress: Progress


class HandedOver(NamedTuple):
    """What the next stage takes, how far it is from what was trained, what a person should read."""

    ref: ModelRef
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()


def hand_over(
    trained: ModelRef, config: Merge | Stack, *, probe: Probe, place: Place
) -> HandedOver:
    """The model that the next stage takes, loaded and held against the one that was trained.

    A stack writes nothing until its frozen ranks exceed `config.max_rank` together: then it
    becomes a new base, the fp32 sum, which is checked as a merge is.

    Args:
        trained: the model as it was trained, its newest adapter on top.
        config: how to hand it over, and within which bound.
        probe: taken of the trained model at the end of its training.
        place: where, and for whom.

    Raises:
        TrainingError: the model is further from the trained one than `config` allows.
    """
    if isinstance(config, Merge):
        return _merged(trained, config, probe, place)
    rank = sum(adapter.r for adapter in trained.adapters)
    if rank <= config.max_rank:
        return _stacked(trained, config, probe, place)
    merged = _merged(trained, Merge(dtype="float32"), probe, place)
    note = f"rank {rank} exceeds compose.max_rank {config.max_rank}: a new base was written"
    return merged._replace(notes=(note, *merged.notes))


def kept_notes(kept_share: float) -> tuple[str, ...]:
    """What to do where a cast lost a part of the training."""
    if kept_share >= WORTH_A_WARNING:
        return ()
    return (
        f"the merge kept {kept_share:.2f} of the training's change: set compose.name=stack, which "
        "loses nothing between stages, or write fp32 with compose.dtype=float32",
    )


def _merged(trained: ModelRef, config: Merge, probe: Probe, place: Place) -> HandedOver:
    deltas = plan_merge(trained)
    kept = write_merge(
        deltas,
        store=place.store,
        dtype=config.dtype,
        folder=place.folder,
        progress=place.progress,
    )
    base, tokenizer = describe(place.folder, f"folder:{place.folder}", None)
    written = trained.model_copy(update={"base": base, "tokenizer": tokenizer, "adapters": ()})
    found = distance(probe, open_model(written, place.store, dtype=place.dtype).model)
    if not found["kl"] <= config.max_kl:
        raise TrainingError(
            f"the merge of {_names(trained)} is not the model that was trained: {_shown(found)}, "
            f"kept share {kept:.3f}; compose.max_kl allows {config.max_kl:g} nats a token. Set "
            "compose.name=stack, which loses nothing, or raise compose.max_kl."
        )
    ref = written.model_copy(
        update={
            "base": base.model_copy(update={"uri": place.uri}),
            "tokenizer": tokenizer.model_copy(update={"uri": place.uri}),
            "derived_from": trained.ref_hash,
            "materialised": Materialised(
                dtype=config.dtype,
                origin=deltas.origin,
                deltas=deltas.adapters,
                kept_share=kept,
                probe=found,
            ),
        }
    )
    return HandedOver(ref, {"kept_share": kept, **found}, kept_notes(kept))


def _stacked(trained: ModelRef, config: Stack, probe: Probe, place: Place) -> HandedOver:
    found = distance(probe, open_model(trained, place.store, dtype=place.dtype).model)
    allowed = STACK_GAP[place.dtype] if config.max_gap is None else config.max_gap
    if not found["mean_abs_logprob"] <= allowed:
        raise TrainingError(
            f"the stack of {_names(trained)} is not the model that was trained: {_shown(found)}; "
            f"allowed are {allowed:g} nats in {place.dtype}. If it was trained on other hardware, "
            "raise compose.max_gap; otherwise remove that stage's artifact and train it again."
        )
    return HandedOver(trained, found)


def _names(ref: ModelRef) -> str:
    made = ref.materialised.deltas if ref.materialised else ()
    return " + ".join(adapter.stage for adapter in (*made, *ref.adapters))


def _shown(found: dict[str, float]) -> str:
    return (
        f"mean |d log-prob| {found['mean_abs_logprob']:.3g} nats, KL {found['kl']:.3g} nats a "
        f"token, top-1 {found['top1']:.3f}"
    )
