"""A model of a store from Python, loaded as evaluation loads it."""

import os
from pathlib import Path
from typing import Literal

from alignment.errors import UsageError
from alignment.models.load import LoadedModel
from alignment.models.load import open_model as load_model
from alignment.records.refs import ModelRef
from alignment.rounds.references import find_model
from alignment.store.places import connect, store_at


def open_model(
    store: str | os.PathLike[str],
    reference: str,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> LoadedModel:
    """Load a model of a store with its tokenizer, in full weights, on the GPU if there is one.

    Args:
        store: folder of the store, or the URL of its bucket.
        reference: "practice/round-3", "champion", a key: as on the command line.
        dtype: dtype in memory; default: the one on disk.

    Returns:
        An object with `model` and `tokenizer`, those of transformers.

    Raises:
        UsageError: nothing is called so, or it is no model.
    """
    opened = store_at(store if isinstance(store, str) else Path(store))
    connect(opened)
    record = find_model(opened, reference)
    ref = opened.open(record.key).output_as(ModelRef)
    if ref is None:
        raise UsageError(
            f"{reference!r} ({record.key}) is not a model; name one, such as RUN/round-1 or "
            "champion: sft-dpo runs"
        )
    return load_model(ref, opened, dtype=dtype or ref.base.dtype, quantised=False)
