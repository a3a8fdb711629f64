"""Adapters become weights: the fp32 sum of all deltas on the original base, written to a folder.

W = W_origin + sum_i (alpha_i / r_i) * B_i A_i, in fp32, then cast once. Never into 4-bit weights,
which destroys the training, and never onto an earlier bfloat16 merge, which rounds small deltas
away stage by stage. What the cast loses is measured and recorded, and so is the distance between
the model as it was trained (perhaps quantised) and the folder that was written.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat

from alignment.durable import staged
from alignment.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Factors,
    check_adapter,
    read_factors,
)
from alignment.models.load import base_folder
from alignment.models.sources import tokenizer_files
from alignment.progress import Progress
from alignment.records import AdapterRef, BaseRef, Frozen, ModelRef
from alignment.store import Store

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

SHARD_SIZE = "4GB"


class Merge(Frozen):
    """Hand a stage's result over as one folder of full weights."""

    name: Literal["merge"] = "merge"
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="Of the weights written. bfloat16 halves the folder and loses the part of "
        "the training that the record calls 1 - kept_share; float32 loses nothing.",
    )
    max_kl: PositiveFloat = Field(
        default=0.3,
        description="Largest mean KL of the merged model, as the next stage loads it, from the one "
        "that was trained, nats per token of a probe; beyond it the run stops. Measured on "
        "SmolLM2-135M, merged in bfloat16 and quantised again: 0.05-0.12; training lost: 0.57.",
    )


class Deltas(Frozen):
    """What a merge will add, and to what."""

    origin: BaseRef
    adapters: tuple[AdapterRef, ...]


def plan_merge(trained: ModelRef) -> Deltas:
    """The original base and every delta on the way from it to `trained`, oldest first."""
    earlier = trained.materialised
    if earlier is None:
        return Deltas(origin=trained.base, adapters=trained.adapters)
    return Deltas(origin=earlier.origin, adapters=(*earlier.deltas, *trained.adapters))


def write_merge(
    deltas: Deltas,
    *,
    store: Store,
    dtype: str,
    folder: Path,
    progress: Progress,
    least: float = 0.0,
) -> tuple[str, float]:
    """Add the deltas in fp32, write weights and tokenizer to `folder`.

    The kept share is the projection of the change that was written on the exact one,
    <W_written - W_origin, D> / <D, D> over all adapted weights, D the fp32 sum of the deltas.
    1.0 means that the cast lost nothing of the training's direction.

    Args:
        deltas: what to add to what.
        store: resolves the references.
        dtype: of the weights written.
        folder: gets weights and tokenizer.
        progress: told of every adapter added.
        least: kept share below which the weights are written in float32 instead.

    Returns:
        The dtype written and the kept share.
    """
    import torch

    origin = base_folder(deltas.origin, store)
    folders = [store.path(adapter.uri) for adapter in deltas.adapters]
    model = _merged(origin, folders, progress)
    kept = _kept_share(model, origin, folders, getattr(torch, dtype))
    if kept < least:
        dtype, kept = "float32", _kept_share(model, origin, folders, torch.float32)
    with staged("merge.save", folder) as place:
        model.to(getattr(torch, dtype)).save_pretrained(place, max_shard_size=SHARD_SIZE)
        for file in tokenizer_files(origin):
            shutil.copy(file, place / file.name)
    return dtype, kept


def _merged(origin: Path, folders: Sequence[Path], progress: Progress) -> "PreTrainedModel":
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel

    with _with_base(folders[0], origin) as first:
        adapted = AutoPeftModelForCausalLM.from_pretrained(first, dtype=torch.float32)
        model: PreTrainedModel = adapted.merge_and_unload()
    progress.update("merging", 1, len(folders))
    for done, adapter in enumerate(folders[1:], start=2):
        check_adapter(adapter)
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        progress.update("merging", done, len(folders))
    return model


@contextlib.contextmanager
def _with_base(adapter: Path, base: Path) -> Iterator[Path]:
    """A stand-in for an adapter folder whose config names the base to load, for AutoPeft."""
    settings = check_adapter(adapter)
    settings["base_model_name_or_path"] = str(base.absolute())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(settings))
        (folder / ADAPTER_WEIGHTS).symlink_to((adapter / ADAPTER_WEIGHTS).absolute())
        yield folder


def _kept_share(
    model: "PreTrainedModel", origin: Path, folders: Sequence[Path], dtype: "torch.dtype"
) -> float:
    """Projection of the written change on the exact one; `model` holds the fp32 merge."""
    import torch
    from safetensors import safe_open

    from alignment.models.sources import weight_files

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters = dict(model.named_parameters())
    adapters = [read_factors(one) for one in folders]
    along = exact = 0.0
    for file in weight_files(origin):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(set(tensors.keys()) & parameters.keys()):
                delta = _delta(name, adapters, device)
                if delta is None:
                    continue
                written = parameters[name].data.to(device, dtype).float()
                change = written - tensors.get_tensor(name).to(device).float()
                along += float((change * delta).sum(dtype=torch.float64))
                exact += float((delta * delta).sum(dtype=torch.float64))
    return along / exact if exact else 1.0


def _delta(
    name: str, adapters: Sequence[Mapping[str, Factors]], device: "torch.device"
) -> "Tensor | None":
    """The fp32 sum of all adapters' deltas of one weight, or None where there is none."""
    total = None
    for adapter in adapters:
        factors = adapter.get(name.removesuffix(".weight"))
        if factors is None:
            continue
        delta = factors.b.to(device) @ factors.a.to(device)
        total = delta if total is None else total + delta
    return total
