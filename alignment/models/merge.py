"""Adapters become weights: the fp32 sum of all deltas on the original base, written to a folder.

W = W_origin + sum_i (alpha_i / r_i) * B_i A_i, in fp32, then cast once. Never into 4-bit weights,
which destroys the training, and never onto an earlier bfloat16 merge, which rounds small deltas
away stage by stage. What the cast loses is measured and recorded, and so is the distance between
the model as it was trained (perhaps quantised) and the folder that was written.

The base is gone through once, tensor by tensor, so that memory is taken for one shard of what is
written and one tensor at work, however large the model. The arithmetic is that of PEFT's
`merge_and_unload`, adapter after adapter: on a CPU the same bits.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignment.errors import ModelError
from alignment.models.factors import FactorFile, check_fit
from alignment.models.folder import tokenizer_files
from alignment.models.hub import base_folder
from alignment.models.weight_files import Weights, blank_model, write_shards
from alignment.records import AdapterRef, BaseRef, Frozen, ModelRef
from alignment.store.durable import staged
from alignment.store.progress import Progress
from alignment.store.store import Store

ROWS = 1024
"""Of a weight, compared with the stored ones at a time."""


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
        progress: told of every tensor.
        least: kept share below which the weights are written once more, in float32.

    Returns:
        The dtype written and the kept share.

    Raises:
        ModelError: an adapter is damaged or does not fit the base, or the base has no full weights.
    """
    origin = base_folder(deltas.origin, store)
    merging = _Merging(origin, [store.path(adapter.uri) for adapter in deltas.adapters])
    with staged("merge.save", folder) as place:
        kept = merging.write(place, dtype, progress, "merging")
        if kept < least:
            dtype = "float32"
            shutil.rmtree(place)
            kept = merging.write(place, dtype, progress, "merging in float32")
        for file in tokenizer_files(origin):
            shutil.copy(file, place / file.name)
    return dtype, kept


class _Merging:
    """A base and the adapters that are added to it, all of them open and none in memory."""

    def __init__(self, origin: Path, folders: Sequence[Path]) -> None:
        self._blank = blank_model(origin)
        self._weights = Weights(origin)
        self._adapters = [FactorFile(folder) for folder in folders]
        if hasattr(self._blank.config, "quantization_config"):
            raise ModelError(
                f"the weights in {origin} are quantised: a merge needs the full weights they were "
                "made of. Name those as the model, or set compose.name=stack."
            )
        for adapter in self._adapters:
            check_fit(self._blank, adapter.folder, adapter)
            _check_stored(adapter, self._weights, origin)

    def write(self, folder: Path, dtype: str, progress: Progress, phase: str) -> float:
        """Write the sum in a dtype; return the kept share."""
        kept = _Kept()
        names = iter(range(1, len(self._weights.names) + 1))
        kind = getattr(torch, dtype)

        def make(name: str) -> Tensor:
            tensor = self._sum(name, kind, kept)
            progress.update(phase, next(names), len(self._weights.names))
            return tensor

        write_shards(self._blank, self._weights, make, folder, kind)
        return kept.share()

    def _sum(self, name: str, dtype: torch.dtype, kept: "_Kept") -> Tensor:
        """One tensor of the merge: cast once, in fp32 until then."""
        stored = self._weights.read(name)
        module = name.removesuffix(".weight")
        touching = [adapter for adapter in self._adapters if module in adapter]
        if not touching:
            return stored.to(dtype) if stored.is_floating_point() else stored
        exact, total = stored.to(torch.float32, copy=True), None
        for adapter in touching:
            delta = adapter.delta(module)
            exact += delta
            total = delta if total is None else total.add_(delta)
        assert total is not None
        written = exact.to(dtype)
        kept.add(stored, written, total)
        return written


@dataclass
class _Kept:
    """<W_written - W_origin, D> and <D, D>, summed in fp64 as the tensors come."""

    along: float = 0.0
    exact: float = 0.0

    def add(self, stored: Tensor, written: Tensor, delta: Tensor) -> None:
        """Count one weight; some rows at a time, as the differences are fp32 and the sums fp64."""
        for before, after, rows in zip(
            *(part.split(ROWS) for part in (stored, written, delta)), strict=True
        ):
            change = after.float() - before.float()
            self.along += float((change * rows).sum(dtype=torch.float64))
            self.exact += float((rows * rows).sum(dtype=torch.float64))

    def share(self) -> float:
        """1.0 where there was nothing to keep."""
        return self.along / self.exact if self.exact else 1.0


def _check_stored(adapter: FactorFile, weights: Weights, origin: Path) -> None:
    """Every delta has a weight of its shape among those that are read, or it would be left out."""
    for module, (a, b) in adapter.items():
        name = f"{module}.weight"
        if name not in weights or weights.read(name).shape != (b.shape[0], a.shape[1]):
            raise ModelError(
                f"{adapter.folder} changes {name}, and {origin} holds no such weight of that "
                "shape: the adapter belongs to another model, or to a weight that is tied. Leave "
                "that layer out of target_modules, or set compose.name=stack."
            )
