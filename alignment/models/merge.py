"""Merges adapters into full weights: the original base plus the fp32 sum of all deltas.

W = W_origin + sum_i (alpha_i / r_i) * B_i A_i, in fp32, then cast once. Deltas are never added to
4-bit weights, which would destroy the training, nor to an earlier bfloat16 merge, which would round
small deltas away stage by stage. The loss of the cast is measured and recorded, as is the distance
between the model as it was trained (perhaps quantised) and the folder written.

The base is read once, tensor by tensor. Memory is needed for one output shard and the tensor at
work, however large the model. The arithmetic is that of PEFT's `merge_and_unload`, one adapter
after another, so on a CPU the result has the same bits.
"""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignment.errors import ModelError
from alignment.models.experts import in_experts, is_transposed, parts_of
from alignment.models.factors import FactorFile, Factors, check_fit
from alignment.models.folder import tokenizer_files
from alignment.models.hub import base_folder
from alignment.models.tokenizer import tokenizer_folder
from alignment.models.weight_files import Weights, blank_model, names_in_model, write_shards
from alignment.records.base import Frozen
from alignment.records.refs import AdapterRef, BaseRef, ModelRef, TokenizerRef
from alignment.store.durable import staged
from alignment.store.progress import Progress
from alignment.store.store import Store

ROWS = 1024
"""Rows of a weight per chunk when the written weight is compared with the stored one."""


class Deltas(Frozen):
    """The deltas that a merge will add, and the base it adds them to.

    Attributes:
        tokenizer: the tokenizer that goes with the result; None: that of the base's folder.
    """

    origin: BaseRef
    adapters: tuple[AdapterRef, ...]
    tokenizer: TokenizerRef | None = None


def plan_merge(trained: ModelRef) -> Deltas:
    """The original base and every delta between it and `trained`, oldest first."""
    earlier, tokenizer = trained.materialised, trained.tokenizer
    own = tokenizer if tokenizer.uri != trained.base.uri or earlier is not None else None
    if earlier is None:
        return Deltas(origin=trained.base, adapters=trained.adapters, tokenizer=own)
    adapters = (*earlier.deltas, *trained.adapters)
    return Deltas(origin=earlier.origin, adapters=adapters, tokenizer=own)


def write_merge(
    deltas: Deltas,
    *,
    store: Store,
    dtype: str,
    folder: Path,
    progress: Progress,
    min_kept_share: float = 0.0,
) -> tuple[str, float]:
    """Add the deltas in fp32 and write the weights and the tokenizer to `folder`.

    The kept share is the projection of the written change onto the exact change D, the fp32 sum
    of the deltas: <W_written - W_origin, D> / <D, D> over all adapted weights. 1.0 means that the
    cast lost nothing along the direction of the training.

    Args:
        deltas: the deltas and their base.
        store: resolves the references.
        dtype: dtype of the weights written.
        folder: where the weights and the tokenizer are written.
        progress: updated after every tensor.
        min_kept_share: if the kept share is below it, the weights are written again in float32.

    Returns:
        The dtype written and the kept share.

    Raises:
        ModelError: an adapter is damaged or does not fit the base, or the base is quantised.
    """
    origin = base_folder(deltas.origin, store)
    merging = _Merging(origin, [store.path(adapter.uri) for adapter in deltas.adapters])
    with staged("merge.save", folder) as place:
        kept_share = merging.write(place, dtype, progress, "merging")
        if kept_share < min_kept_share:
            dtype = "float32"
            shutil.rmtree(place)
            kept_share = merging.write(place, dtype, progress, "merging in float32")
        for file in tokenizer_files(tokenizer_folder(deltas.origin, deltas.tokenizer, store)):
            shutil.copy(file, place / file.name)
    return dtype, kept_share


class _Merging:
    """A base and the adapters added to it; their files are open, their tensors not in memory."""

    def __init__(self, origin: Path, folders: Sequence[Path]) -> None:
        self._blank = blank_model(origin)
        self._weights = Weights(origin)
        self._names = names_in_model(self._blank, self._weights.names)
        self._parts = parts_of(self._blank, self._names)
        self._adapters = [FactorFile(folder) for folder in folders]
        if hasattr(self._blank.config, "quantization_config"):
            raise ModelError(
                f"the weights in {origin} are quantised, but a merge needs full weights. Set model "
                "to the unquantised original, or set compose.name=stack."
            )
        for adapter in self._adapters:
            check_fit(self._blank, adapter.folder, adapter)
            self._check_stored(adapter)

    def write(self, folder: Path, dtype: str, progress: Progress, phase: str) -> float:
        """Write the merged weights in a dtype; return the kept share."""
        kept = _KeptShare()
        done = iter(range(1, len(self._weights.names) + 1))
        kind = getattr(torch, dtype)

        def compute(name: str) -> Tensor:
            tensor = self._merged(name, kind, kept)
            progress.update(phase, next(done), len(self._weights.names))
            return tensor

        write_shards(self._blank, self._weights, compute, folder, kind)
        return kept.value()

    def _merged(self, name: str, dtype: torch.dtype, kept: "_KeptShare") -> Tensor:
        """One merged tensor: summed in fp32, then cast once."""
        stored = self._weights.read(name)
        module = self._names[name].removesuffix(".weight")
        adapters = [adapter for adapter in self._adapters if module in adapter]
        if not adapters:
            return stored.to(dtype) if stored.is_floating_point() else stored
        exact, total = stored.to(torch.float32, copy=True), None
        for adapter in adapters:
            delta = self._as_stored(adapter.delta(module, self._parts.get(name)), module)
            exact += delta
            total = delta if total is None else total.add_(delta)
        assert total is not None
        written = exact.to(dtype)
        kept.add(stored, written, total)
        return written

    def _as_stored(self, delta: Tensor, module: str) -> Tensor:
        return delta.mT if is_transposed(self._blank, module) else delta

    def _check_stored(self, adapter: FactorFile) -> None:
        """Check that every delta has stored weights of its shape; otherwise it would be lost."""
        stored = defaultdict[str, list[str]](list)
        for name, in_model in self._names.items():
            stored[in_model.removesuffix(".weight")].append(name)
        for module, factors in adapter.items():
            fits = [
                self._weights.read(name).shape == self._delta_shape(name, module, factors)
                for name in stored[module]
            ]
            if not fits or not all(fits):
                weight = module if in_experts(module) else f"{module}.weight"
                raise ModelError(
                    f"{adapter.folder} changes {weight}, but {self._weights.folder} has no such "
                    "weight of that shape: the adapter belongs to another model, or the weight is "
                    "tied. Remove that layer from target_modules, or set compose.name=stack."
                )

    def _delta_shape(self, name: str, module: str, factors: Factors) -> tuple[int, ...]:
        """The shape that a stored weight must have for its share of a delta."""
        *experts, out, _ = factors.b.shape
        sides = (out, factors.a.shape[-1])
        if part := self._parts.get(name):
            return out // part.of, sides[1]
        return (*experts, *(reversed(sides) if is_transposed(self._blank, module) else sides))


@dataclass
class _KeptShare:
    """<W_written - W_origin, D> and <D, D>, accumulated in fp64 over the tensors."""

    along: float = 0.0
    exact: float = 0.0

    def add(self, stored: Tensor, written: Tensor, delta: Tensor) -> None:
        """Add one weight, a chunk of rows at a time to limit the size of temporaries."""
        for before, after, rows in zip(
            *(part.split(ROWS) for part in (stored, written, delta)), strict=True
        ):
            change = after.float() - before.float()
            self.along += float((change * rows).sum(dtype=torch.float64))
            self.exact += float((rows * rows).sum(dtype=torch.float64))

    def value(self) -> float:
        """The kept share; 1.0 if there were no deltas."""
        return self.along / self.exact if self.exact else 1.0
