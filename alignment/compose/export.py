"""A model leaves the store: as a folder others can load, or to be talked to.

What is exported is what evaluation measured: base and adapters in full weights. Where writing it
changes it, by a cast or by another order of summation, the distance is measured and stated.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel

from alignment.compose.handover import WORTH_A_WARNING
from alignment.errors import StorageError, UsageError
from alignment.models.factors import write_concatenated
from alignment.models.folder import tokenizer_files
from alignment.models.generate import generate
from alignment.models.gguf import FILE, check_gguf, load_gguf, write_gguf
from alignment.models.hub import base_folder
from alignment.models.load import load_base, open_model
from alignment.models.merge import Deltas, plan_merge, write_merge
from alignment.records import AdapterRef, Frozen, Message, ModelRef, StageRecord
from alignment.scoring.probe import divergence, probe_of, record_probe
from alignment.store.durable import failpoint_span, flush_tree, remove, rename, write
from alignment.store.lineage import ancestors
from alignment.store.progress import Progress
from alignment.store.store import Store, storage_errors

Form = Literal["merged", "adapter", "gguf"]
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""


class Exported(Frozen):
    """What was written; `export.json` in the folder.

    Attributes:
        form: full weights, an adapter for the base model, or one file for llama.cpp.
        dtype: of the tensors written.
        kept_share: of the training's change, where weights were merged for the export.
        rank: of the adapter.
        from_measured: distance of the folder from the model that evaluation measured.
        from_trained: its distance from the model as it was trained.
    """

    form: Form
    dtype: str | None = None
    kept_share: float | None = None
    rank: int | None = None
    from_measured: dict[str, float] | None = None
    from_trained: dict[str, float] | None = None

    def notes(self) -> list[str]:
        """The same in sentences."""
        found = [f"{self.form}, {self.dtype or 'as it was'}"]
        if self.kept_share is not None:
            found.append(f"kept share of the training's change: {self.kept_share:.4f}")
        if self.rank is not None:
            fits = next((rank for rank in VLLM_RANKS if rank >= self.rank), None)
            serve = f"vLLM needs --max-lora-rank {fits}" if fits else "beyond what vLLM takes"
            found.append(f"rank {self.rank}; {serve}")
        for name, gap in (("measured", self.from_measured), ("trained", self.from_trained)):
            if gap is not None:
                found.append(
                    f"from the model as {name}: mean |d log-prob| {gap['mean_abs_logprob']:.2g} "
                    f"nats, KL {gap['kl']:.2g}, top-1 {gap['top1']:.3f}"
                )
        return found


def export(
    store: Store, record: StageRecord, to: Path, *, form: Form = "merged", dtype: str | None = None
) -> Exported:
    """Write the model or adapter of a record to a new folder, with its lineage and distances.

    The folder appears whole or not at all.

    Args:
        store: where the record's files are.
        record: of a model, or of a step that trained an adapter, which is copied as it is.
        to: folder to write.
        form: "merged" is one folder of full weights: those of a merge as they are, those of a
            stack merged once. "adapter" is all adapters since the original base as one.
            "gguf" is one file for llama.cpp, of the fp32 merge.
        dtype: of merged weights; bfloat16 by default, float32 where that would keep less than
            95 % of the training's change.

    Raises:
        UsageError: the record is neither a model nor an adapter, or has nothing of that form.
        StorageError: the folder exists, or cannot be written.
    """
    record = store.open(record.key)
    if to.exists():
        raise StorageError(f"{to} exists already; choose a new folder.")
    staging = to.with_name(f".{to.name}.part")
    with storage_errors(to):
        remove("export.begun", staging)
        staging.mkdir(parents=True)
        with failpoint_span("export.model"):
            written = _write(store, record, staging, form, dtype)
        lineage = [found.model_dump(mode="json") for found in ancestors(store, record.key)]
        write("export.lineage", staging / "lineage.json", json.dumps(lineage, indent=2))
        write("export.account", staging / "export.json", written.model_dump_json(indent=2))
        flush_tree("export.flush", staging)
        rename("export.publish", staging, to)
    return written


def open_for_chat(
    store: Store, record: StageRecord, *, max_new_tokens: int
) -> Callable[[Sequence[tuple[str, str]]], str]:
    """A function from the turns so far, (role, text) each, to the model's greedy reply.

    Raises:
        UsageError: the record is not a model.
    """
    ref = _model(store.open(record.key))
    loaded = open_model(ref, store, dtype=ref.base.dtype, quantised=False)

    def reply(turns: Sequence[tuple[str, str]]) -> str:
        messages = tuple(Message.model_validate({"role": r, "content": c}) for r, c in turns)
        found = generate(
            loaded.model, loaded.tokenizer, [messages], max_new_tokens=max_new_tokens, batch=1
        )
        return found[0].text

    return reply


def _write(
    store: Store, record: StageRecord, folder: Path, form: Form, dtype: str | None
) -> Exported:
    if adapter := record.output_as(AdapterRef):
        _copy(store.path(adapter.uri), folder)
        return Exported(form="adapter", rank=adapter.r)
    ref = _model(record)
    deltas = plan_merge(ref)
    if form == "merged" and not ref.adapters and dtype in (None, ref.base.dtype):
        _copy(base_folder(ref.base, store), folder)
        written = Exported(form="merged", dtype=ref.base.dtype)
        return _measured_copy(written, store, deltas, folder) if deltas.adapters else written
    if form == "gguf":
        return _gguf(store, ref, deltas, folder, dtype)
    if not deltas.adapters:
        raise UsageError(f"{record.name!r} has no adapter: export it without --form and --dtype.")
    written = (_merge if form == "merged" else _concatenate)(store, deltas, folder, dtype)
    return _measured(written, store, ref, deltas, folder)


def _merge(store: Store, deltas: Deltas, folder: Path, dtype: str | None) -> Exported:
    chosen, kept = write_merge(
        deltas,
        store=store,
        dtype=dtype or "bfloat16",
        folder=folder,
        progress=Progress(),
        least=0.0 if dtype else WORTH_A_WARNING,
    )
    return Exported(form="merged", dtype=chosen, kept_share=kept)


def _concatenate(store: Store, deltas: Deltas, folder: Path, dtype: str | None) -> Exported:
    if dtype not in (None, "float32"):
        raise UsageError("an adapter is exported in float32; leave --dtype out.")
    uri = deltas.origin.uri
    rank = write_concatenated(
        [store.path(adapter.uri) for adapter in deltas.adapters],
        folder,
        base=uri.removeprefix("hub:") if uri.startswith("hub:") else None,
    )
    for file in tokenizer_files(base_folder(deltas.origin, store)):
        shutil.copy(file, folder / file.name)
    return Exported(form="adapter", dtype="float32", rank=rank)


def _gguf(store: Store, ref: ModelRef, deltas: Deltas, folder: Path, dtype: str | None) -> Exported:
    if dtype not in (None, "float32"):
        raise UsageError(
            "a GGUF is exported in float32; leave --dtype out, and make smaller ones of it with "
            "llama.cpp's llama-quantize."
        )
    check_gguf(base_folder(deltas.origin, store))
    if not ref.adapters and (not deltas.adapters or ref.base.dtype == "float32"):
        write_gguf(base_folder(ref.base, store), folder / FILE)
        written = Exported(form="gguf", dtype="float32")
    else:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            merged = Path(scratch) / "merged"
            _, kept = write_merge(
                deltas, store=store, dtype="float32", folder=merged, progress=Progress()
            )
            write_gguf(merged, folder / FILE)
        written = Exported(form="gguf", dtype="float32", kept_share=kept)
    return _measured(written, store, ref, deltas, folder) if deltas.adapters else written


def _measured(
    written: Exported, store: Store, ref: ModelRef, deltas: Deltas, folder: Path
) -> Exported:
    """The same with its distances, each model loaded as others would load it, in fp32."""
    trained = probe_of(store, deltas.adapters[-1])
    measured = open_model(ref, store, dtype="float32", quantised=False).model
    probe = record_probe(measured, trained.rows)
    del measured
    model = _as_others_load_it(written, store, deltas, folder)
    return written.model_copy(
        update={
            "from_measured": divergence(probe, model),
            "from_trained": divergence(trained, model),
        }
    )


def _measured_copy(written: Exported, store: Store, deltas: Deltas, folder: Path) -> Exported:
    """The same for a folder that evaluation measured as it is: no distance but from training.

    Not the one its hand-over recorded, which is of what the next stage loads, perhaps in 4 bits.
    """
    model = _as_others_load_it(written, store, deltas, folder)
    return written.model_copy(
        update={"from_trained": divergence(probe_of(store, deltas.adapters[-1]), model)}
    )


def _as_others_load_it(written: Exported, store: Store, deltas: Deltas, folder: Path) -> Any:
    if written.form == "gguf":
        return load_gguf(folder)
    if written.form == "merged":
        return load_base(folder, dtype="float32")
    base = load_base(base_folder(deltas.origin, store), dtype="float32")
    return PeftModel.from_pretrained(base, str(folder))


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _model(record: StageRecord) -> ModelRef:
    model = record.output_as(ModelRef)
    if model is None:
        raise UsageError(
            f"{record.name!r} is not a model. Name a base, a merge or a stack, such as merge-dpo-1."
        )
    return model
