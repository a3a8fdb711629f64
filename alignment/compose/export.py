"""Exports a model from the store as a folder for other programs, or opens it for chat.

The exported model is the one that evaluation measured: base and adapters in full weights. If
writing changes it, by a cast or another order of summation, the divergence is measured and stated.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel

from alignment.answers.ask import generate
from alignment.answers.vllm import fitting_rank
from alignment.compose.handover import KEPT_SHARE_WARNING
from alignment.errors import ModelError, StorageError, UsageError
from alignment.models.adapters import base_below, name_base, plain_base
from alignment.models.factors import write_concatenated
from alignment.models.folder import tokenizer_files
from alignment.models.gguf import FILE, check_gguf, load_gguf, write_gguf
from alignment.models.hub import base_folder
from alignment.models.llama_cpp import check_convertible, convert, find_converter
from alignment.models.load import load_base, open_model
from alignment.models.merge import Deltas, plan_merge, write_merge
from alignment.models.stopping import write_stops
from alignment.models.tokenizer import tokenizer_folder, write_date
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.records.refs import AdapterRef, BaseRef, ModelRef, TokenizerRef
from alignment.records.text import Message
from alignment.scoring.logprobs import Completion
from alignment.scoring.probe import divergence, probe_of, record_probe
from alignment.store.durable import failpoint_span, flush_tree, remove, rename, write
from alignment.store.errors import storage_errors
from alignment.store.lineage import ancestors
from alignment.store.progress import Progress
from alignment.store.store import Store

Form = Literal["merged", "adapter", "gguf"]
GGUF_GAP = 1e-4
"""Largest mean |difference| of a log-prob, in nats, of a GGUF file from its weights, both fp32."""


class Exported(Frozen):
    """Description of an export; `export.json` in its folder.

    Attributes:
        form: full weights, an adapter for the base model, or one file for llama.cpp.
        dtype: dtype of the tensors written; None if an adapter was copied unchanged.
        kept_share: kept share of the training's change, if weights were merged for the export.
        rank: rank of the adapter.
        base: the model that plain PEFT loads below the adapter, named in its config.
        made_by: the converter of llama.cpp that wrote a GGUF file; None: our own writer.
        from_measured: divergence of the export from the model that evaluation measured.
        from_trained: divergence of the export from the model as it was trained.
    """

    form: Form
    dtype: str | None = None
    kept_share: float | None = None
    rank: int | None = None
    base: str | None = None
    made_by: str | None = None
    from_measured: dict[str, float] | None = None
    from_trained: dict[str, float] | None = None

    def notes(self) -> list[str]:
        """The description as lines of text for the user."""
        lines = [f"{self.form}, {self.dtype or 'copied unchanged'}"]
        if self.made_by is not None:
            lines.append(f"written by {self.made_by}")
        if self.kept_share is not None:
            lines.append(f"kept share of the training's change: {self.kept_share:.4f}")
        if self.rank is not None:
            fits = fitting_rank(self.rank)
            serve = f"vLLM needs --max-lora-rank {fits}" if fits else "too large for vLLM"
            lines.append(f"rank {self.rank}; {serve}")
        if self.form == "adapter":
            lines.append(
                f"AutoPeftModelForCausalLM.from_pretrained opens it on {self.base}"
                if self.base
                else "it does not open alone, because adapters are stacked below it: export the "
                "stack with --form adapter instead"
            )
        for name, gap in (("measured", self.from_measured), ("trained", self.from_trained)):
            if gap is not None:
                lines.append(
                    f"from the model as {name}: mean |d log-prob| {gap['mean_abs_logprob']:.2g} "
                    f"nats, KL {gap['kl']:.2g}, top-1 {gap['top1']:.3f}"
                )
        return lines


def export(
    store: Store,
    record: StageRecord,
    to: Path,
    *,
    form: Form = "merged",
    dtype: str | None = None,
    converter: Path | None = None,
    card: Callable[[Exported], str] = lambda _: "",
) -> Exported:
    """Write the model or adapter of a record to a new folder, with its lineage and divergences.

    The folder appears complete or not at all.

    Args:
        store: the store with the record's files.
        record: record of a model, or of a step that trained an adapter, which is copied unchanged.
        to: folder to write.
        form: "merged" is one folder of full weights: a merge is copied, a stack is merged once.
            "adapter" is all adapters since the original base, combined into one.
            "gguf" is one file for llama.cpp, made from the fp32 merge.
        dtype: dtype of merged weights. Default: bfloat16, or float32 if bfloat16 would keep less
            than 95 % of the training's change.
        converter: llama.cpp's converter for a GGUF file, or its folder. Default: the one on the
            PATH, or else our own writer.
        card: the text of README.md, from what was written; empty for none.

    Raises:
        UsageError: the record is neither a model nor an adapter, or cannot be written in that form.
        StorageError: the folder exists, or cannot be written.
    """
    record = store.open(record.key)
    if to.exists():
        raise StorageError(f"{to} already exists; choose a new folder.")
    staging = to.with_name(f".{to.name}.part")
    with storage_errors(to):
        remove("export.begun", staging)
        staging.mkdir(parents=True)
        with failpoint_span("export.model"):
            written = _write(store, record, staging, form, dtype, converter)
        lineage = [found.model_dump(mode="json") for found in ancestors(store, record.key)]
        write("export.lineage", staging / "lineage.json", json.dumps(lineage, indent=2))
        if text := card(written):
            write("export.card", staging / "README.md", text)
        write("export.account", staging / "export.json", written.model_dump_json(indent=2))
        flush_tree("export.flush", staging)
        rename("export.publish", staging, to)
    return written


def open_for_chat(
    store: Store, record: StageRecord, *, max_new_tokens: int
) -> Callable[[Sequence[tuple[str, str]]], str]:
    """A function from the turns so far, as (role, text), to the model's greedy reply.

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
    store: Store,
    record: StageRecord,
    folder: Path,
    form: Form,
    dtype: str | None,
    converter: Path | None,
) -> Exported:
    if adapter := record.output_as(AdapterRef):
        _copy(store.path(adapter.uri), folder)
        policy = ModelRef.model_validate(store.open(record.parents["policy"]).output)
        origin = base_folder(policy.base, store)
        base = base_below(policy, origin)
        name_base(folder, base)  # again: the store may have moved since
        _add_tokenizer(store, policy.base, policy.tokenizer, folder)
        _add_settings(folder, origin, policy.tokenizer)
        return Exported(form="adapter", rank=adapter.r, base=base.name)
    ref = _model(record)
    deltas = plan_merge(ref)
    if form == "merged" and not ref.adapters and dtype in (None, ref.base.dtype):
        _copy(base_folder(ref.base, store), folder)
        _copy_tokenizer(store, ref, folder)
        _add_settings(folder, folder, ref.tokenizer)
        written = Exported(form="merged", dtype=ref.base.dtype)
        if not deltas.adapters:
            return written
        return _with_gap_from_training(written, store, deltas, folder)
    if form == "gguf":
        return _gguf(store, ref, deltas, folder, dtype, find_converter(converter))
    if not deltas.adapters:
        raise UsageError(f"{record.name!r} has no adapter; export it without --form and --dtype.")
    written = (_merge if form == "merged" else _concatenate)(store, deltas, folder, dtype)
    _add_settings(folder, base_folder(deltas.origin, store), ref.tokenizer)
    return _with_gaps(written, store, ref, deltas, folder)


def _merge(store: Store, deltas: Deltas, folder: Path, dtype: str | None) -> Exported:
    written_dtype, kept_share = write_merge(
        deltas,
        store=store,
        dtype=dtype or "bfloat16",
        folder=folder,
        progress=Progress(),
        min_kept_share=0.0 if dtype else KEPT_SHARE_WARNING,
    )
    return Exported(form="merged", dtype=written_dtype, kept_share=kept_share)


def _concatenate(store: Store, deltas: Deltas, folder: Path, dtype: str | None) -> Exported:
    if dtype not in (None, "float32"):
        raise UsageError("an adapter is always exported in float32; omit --dtype.")
    base = plain_base(deltas.origin, base_folder(deltas.origin, store))
    rank = write_concatenated(
        [store.path(adapter.uri) for adapter in deltas.adapters], folder, base=base
    )
    _add_tokenizer(store, deltas.origin, deltas.tokenizer, folder)
    return Exported(form="adapter", dtype="float32", rank=rank, base=base.name)


def _gguf(
    store: Store,
    ref: ModelRef,
    deltas: Deltas,
    folder: Path,
    dtype: str | None,
    converter: Path | None,
) -> Exported:
    if dtype not in (None, "float32"):
        raise UsageError(
            "a GGUF is always exported in float32; omit --dtype, and use llama.cpp's "
            "llama-quantize for a smaller file."
        )
    origin = base_folder(deltas.origin, store)
    if converter is None:
        check_gguf(origin)
    else:
        check_convertible(converter, origin)
    made_by = converter and str(converter)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        whole, kept_share = _in_full(store, ref, deltas, Path(scratch) / "full")
        full = _with_settings(whole, Path(scratch) / "settings", origin, ref.tokenizer)
        if converter is None:
            write_gguf(full, folder / FILE)
        else:
            convert(converter, full, folder / FILE)
        rows = probe_of(store, deltas.adapters[-1]).rows if deltas.adapters else None
        read = _read_back(full, folder, rows, made_by or "our own writer")
    written = Exported(form="gguf", dtype="float32", kept_share=kept_share, made_by=made_by)
    if not deltas.adapters:
        return written.model_copy(update={"from_measured": read})
    return _with_gaps(written, store, ref, deltas, folder)


def _in_full(
    store: Store, ref: ModelRef, deltas: Deltas, scratch: Path
) -> tuple[Path, float | None]:
    """A folder of exact full weights, and the kept share if they had to be merged to `scratch`."""
    if not ref.adapters and (not deltas.adapters or ref.base.dtype == "float32"):
        return base_folder(ref.base, store), None
    _, kept_share = write_merge(
        deltas, store=store, dtype="float32", folder=scratch, progress=Progress()
    )
    return scratch, kept_share


def _with_settings(full: Path, folder: Path, origin: Path, tokenizer: TokenizerRef | None) -> Path:
    """The same model, with its weights linked, and the settings of an export."""
    shutil.copytree(full, folder, copy_function=_link_weights)
    _add_settings(folder, origin, tokenizer)
    return folder


def _add_settings(folder: Path, origin: Path, tokenizer: TokenizerRef | None) -> None:
    """Hand over what the model was measured under: every stop token, and the template's date."""
    write_stops(folder, origin)
    write_date(folder, tokenizer)


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(target).symlink_to(Path(source).resolve())
    else:
        shutil.copy2(source, target)


def _read_back(
    full: Path, folder: Path, rows: Sequence[Completion] | None, maker: str
) -> dict[str, float]:
    """The divergence of a GGUF file from the folder it was made of.

    Raises:
        ModelError: it is more than rounding explains.
    """
    own = load_base(full, dtype="float32")
    found = divergence(record_probe(own, rows or _any_rows(own)), load_gguf(folder))
    if not found["mean_abs_logprob"] <= GGUF_GAP:
        raise ModelError(
            f"the GGUF file of {maker} computes something else than the model: log-probs differ by "
            f"{found['mean_abs_logprob']:.2g} nats, but rounding explains only {GGUF_GAP:g}. "
            "Nothing was exported: either the file is wrong, or transformers reads it wrongly. Use "
            "--form merged."
        )
    return found


def _any_rows(model: Any) -> list[Completion]:
    """Tokens to compare two readings of a model with that was never trained here."""
    chosen = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(size, (8, 32), generator=chosen).tolist()
    return [Completion(tuple(row[:8]), tuple(row[8:])) for row in ids]


def _with_gaps(
    written: Exported, store: Store, ref: ModelRef, deltas: Deltas, folder: Path
) -> Exported:
    """Add both divergences, with the export loaded as other programs would load it, in fp32."""
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


def _with_gap_from_training(
    written: Exported, store: Store, deltas: Deltas, folder: Path
) -> Exported:
    """Add only the divergence from training, for a folder that evaluation measured unchanged.

    The handover's record cannot be used: it describes what the next stage loads, perhaps quantised.
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


def _add_tokenizer(
    store: Store, base: BaseRef, tokenizer: TokenizerRef | None, folder: Path
) -> None:
    for file in tokenizer_files(tokenizer_folder(base, tokenizer, store)):
        shutil.copy(file, folder / file.name)


def _copy_tokenizer(store: Store, ref: ModelRef, folder: Path) -> None:
    """Put a tokenizer with another template in the place of the base's own."""
    own = tokenizer_folder(ref.base, ref.tokenizer, store)
    if own != base_folder(ref.base, store):
        for file in tokenizer_files(folder):
            file.unlink()
        _add_tokenizer(store, ref.base, ref.tokenizer, folder)


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _model(record: StageRecord) -> ModelRef:
    model = record.output_as(ModelRef)
    if model is None:
        raise UsageError(
            f"{record.name!r} is not a model. Choose a base, a merge or a stack, e.g. merge-dpo-1."
        )
    return model
