"""Writes a model with its card: what `sft-dpo export` and `publish` call."""

from pathlib import Path, PurePath
from typing import Literal

from alignment.compose.export import Exported, export
from alignment.records.manifest import StageRecord
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
        notes = _without_folders(written).notes()
        return card_of(store, record, name=name, form=written.form, notes=notes).text

    return export(store, record, to, form=form, dtype=dtype, converter=converter, card=card)


def _without_folders(written: Exported) -> Exported:
    """The description without the folders of this machine, which a card does not name."""
    base = written.base and PurePath(written.base)
    if not base or not base.is_absolute():
        return written
    return written.model_copy(update={"base": base.name})
