"""Writes a model with its card: what `sft-dpo export` and `publish` call."""

from pathlib import Path
from typing import Literal

from alignment.compose.export import Exported, export
from alignment.records import StageRecord
from alignment.report.card import card_of
from alignment.store.store import Store


def write_with_card(
    store: Store,
    record: StageRecord,
    to: Path,
    *,
    name: str,
    form: Literal["merged", "adapter", "gguf"],
    dtype: str | None = None,
    converter: Path | None = None,
) -> Exported:
    """Export a model or adapter to a folder whose README is its card, under this name."""

    def card(written: Exported) -> str:
        return card_of(store, record, name=name, form=form, notes=written.notes()).text

    return export(store, record, to, form=form, dtype=dtype, converter=converter, card=card)
