"""Experts whose weights are one tensor per layer and projection, as transformers 5 holds them.

No linear layer holds them, so PEFT adapts the tensors themselves (`target_parameters`): each expert
gets an A and a B of its own, and W + (alpha / r) B A takes the place of W while the layer runs.
Checkpoints often store every projection of every expert apart; an `ExpertSlice` says which part of
the tensor a stored weight is.
"""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

from alignment.errors import ModelError
from alignment.models.adapters import TENSORS


class ExpertSlice(NamedTuple):
    """The slice of a tensor of experts that one stored weight is.

    Attributes:
        expert: the expert's number.
        number: which of the projections that lie on top of one another.
        of: how many of them there are.
    """

    expert: int
    number: int
    of: int

    def of_delta(self, a: Tensor, b: Tensor) -> Tensor:
        """The slice of the product b a: [rows / of, in]; a is [experts, r, in]."""
        rows = b.shape[1] // self.of
        own = b[self.expert, self.number * rows : (self.number + 1) * rows]
        return own @ a[self.expert]


def in_experts(target: str) -> bool:
    """Whether an adapter's target is a tensor of experts, and no layer."""
    return target.endswith(tuple(f".{name}" for name in TENSORS))


def expert_tensors(model: Any) -> dict[str, nn.Parameter]:
    """The tensors of experts by full name."""
    return {name: tensor for name, tensor in model.named_parameters() if in_experts(name)}


def is_transposed(model: Any, target: str) -> bool:
    """Whether a target's tensor is [experts, in, out], as in gpt-oss."""
    holder = model.get_submodule(target.rpartition(".")[0])
    return in_experts(target) and bool(getattr(holder, "is_transposed", False))


def targets_of(config: LoraConfig, model: Any) -> dict[str, tuple[int, ...]]:
    """What an adapter changes: shapes by the names of linear layers and tensors of experts.

    A shape is [out, in] or [experts, out, in], however the model holds the weight.
    """
    ends = tuple(f".{name}" for name in config.target_parameters or ())
    found: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if check_target_module_exists(config, name) or f"{name}.weight".endswith(ends):
            found[name] = (getattr(module, "out_features", 0), getattr(module, "in_features", 0))
    for name, tensor in expert_tensors(model).items():
        if name.endswith(ends):
            experts, *sides = tensor.shape
            found[name] = (experts, *(reversed(sides) if is_transposed(model, name) else sides))
    return found


def weights_in(targets: Mapping[str, tuple[int, ...]]) -> int:
    """Number of weights in targets."""
    return sum(prod(shape) for shape in targets.values())


def parts_of(blank: Any, stored: Mapping[str, str]) -> dict[str, ExpertSlice]:
    """Which part of its tensor of experts each stored weight is; only those that are parts.

    Args:
        blank: the model without weights.
        stored: the names of stored tensors and of the tensors in the model that they become.

    Raises:
        ModelError: a weight becomes part of a tensor in a way that cannot be undone here.
    """
    own = blank.state_dict()
    converters = [
        part for part in get_model_conversion_mapping(blank) if isinstance(part, WeightConverter)
    ]
    return {
        name: _part(name, target, converters)
        for name, target in stored.items()
        if in_experts(target) and target in own and name.rpartition(".")[2] == "weight"
        if _numbers(name) != _numbers(target)
    }


def _part(name: str, target: str, converters: Iterable[WeightConverter]) -> ExpertSlice:
    for converter in converters:
        ends = [pattern.rpartition("*")[2] for pattern in converter.source_patterns]
        match = [number for number, end in enumerate(ends) if end and name.endswith(end)]
        stacks = {type(step) for step in converter.operations} <= {MergeModulelist, Concatenate}
        if target.endswith(converter.target_patterns[0].lstrip(".")) and match and stacks:
            return ExpertSlice(_numbers(name)[-1], match[0], len(ends))
    raise ModelError(
        f"{name} is stored in a form from which {target} is not merely stacked, so adapters on "
        "these experts could not be merged. Name linear layers in lora.target_modules instead."
    )


def _numbers(name: str) -> list[int]:
    return [int(piece) for piece in name.split(".") if piece.isdigit()]
