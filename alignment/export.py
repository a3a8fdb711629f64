"""A model leaves the store: as a folder others can load, or to be talked to."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from alignment.errors import StorageError, UsageError
from alignment.lineage import ancestors
from alignment.records import AdapterRef, Message, ModelRef, StageRecord
from alignment.store import Store, storage_errors


def export(store: Store, record: StageRecord, to: Path) -> list[Path]:
    """Copy the model or adapter of a record to a new folder, with `lineage.json` beside it.

    The copy appears whole or not at all.

    Raises:
        UsageError: the record is neither a model nor an adapter.
        StorageError: the folder exists, or cannot be written.
    """
    source = _folder(store, store.open(record.key))
    if to.exists():
        raise StorageError(f"{to} exists already; choose a new folder.")
    staging = to.with_name(f".{to.name}.part")
    with storage_errors(to):
        staging.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(source, staging)
        lineage = [found.model_dump(mode="json") for found in ancestors(store, record.key)]
        (staging / "lineage.json").write_text(json.dumps(lineage, indent=2))
        staging.rename(to)
    return sorted(path for path in to.rglob("*") if path.is_file())


def open_for_chat(
    store: Store, record: StageRecord, *, max_new_tokens: int
) -> Callable[[Sequence[tuple[str, str]]], str]:
    """A function from the turns so far, (role, text) each, to the model's greedy reply.

    Raises:
        UsageError: the record is not a model.
    """
    from transformers.utils import logging

    from alignment.evaluate.generate import generate
    from alignment.models.load import open_model

    logging.disable_progress_bar()  # it would stand between the turns
    ref = _model(store.open(record.key))
    loaded = open_model(ref, store, dtype=ref.base.dtype, quantised=False)

    def reply(turns: Sequence[tuple[str, str]]) -> str:
        messages = tuple(Message.model_validate({"role": r, "content": c}) for r, c in turns)
        found = generate(
            loaded.model, loaded.tokenizer, [messages], max_new_tokens=max_new_tokens, batch=1
        )
        return found[0].text

    return reply


def _folder(store: Store, record: StageRecord) -> Path:
    from alignment.models.load import base_folder

    if record.stage in ("sft", "dpo", "adapter"):
        return store.path(AdapterRef.model_validate(record.output).uri)
    return base_folder(_model(record).base, store)


def _model(record: StageRecord) -> ModelRef:
    if record.stage not in ("base", "merge", "stack"):
        raise UsageError(
            f"{record.name!r} is not a model. Name a base, a merge or a stack, such as merge-dpo-1."
        )
    return ModelRef.model_validate(record.output)
