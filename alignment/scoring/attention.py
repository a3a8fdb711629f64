"""Packed attention: rows laid end to end do not attend to each other.

Registered with transformers under the name `packed`, so that a model's own code calls it. Without
`segments` (generation, padded batches) it is transformers' SDPA, unchanged. On CUDA in half
precision, one call of torch's variable-length kernel handles all rows; elsewhere each segment is
one SDPA call, exact in fp32. Not here: how segments are built (`batches.py`).
"""

import inspect
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from alignment.errors import ModelError
from alignment.scoring.batches import Segments
from alignment.scoring.families import packing_obstacle

NAME = "packed"


def use_packed_attention(model: Any) -> None:
    """Make a model, with or without adapters, use packed attention when it is given `segments`.

    Raises:
        ModelError: the packed engine does not support its attention.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    reason = packing_obstacle(inner.config)
    if reason:
        raise ModelError(
            f"the packed engine cannot run this model: {reason}; set engine.name=stock in "
            "sft.training, dpo and evaluation"
        )
    if inner.config._attn_implementation != NAME:
        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        inner.set_attn_implementation(NAME)


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, scale: float | None
) -> Tensor:
    """Causal attention within each segment.

    Args:
        query: [1, heads, tokens, head size].
        key: [1, key heads, tokens, head size]; heads is a multiple of key heads.
        value: like key.
        segments: which keys each query may attend to.
        scale: factor of the attention scores; None means 1 / sqrt(head size).

    Returns:
        [1, tokens, heads, head size], as transformers expects.
    """
    if query.is_cuda and torch.is_autocast_enabled("cuda"):  # autocast covers SDPA, not this kernel
        half = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(half), key.to(half), value.to(half)
    if segments.gather is not None:
        key, value = key.index_select(2, segments.gather), value.index_select(2, segments.gather)
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _by_kernel(query, key, value, segments, scale=scale)
    return _by_segment(query, key, value, segments, scale=scale)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in place of SDPA."""
    segments = options.pop("segments", None)
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    return attend_packed(query, key, value, segments, scale=options["scaling"]), None


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, scale: float | None
) -> Tensor:
    known = _kernel_options()
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    options: dict[str, Any] = {"scale": scale} if "scale" in known else {}
    options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    else:
        repeats = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    found = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        segments.queries_from,
        segments.keys_from,
        *segments.longest,
        **options,
    )
    return cast(Tensor, found).unsqueeze(0)


@cache
def _kernel_options() -> frozenset[str]:
    """Argument names of torch's kernel; they differ between torch 2.11 and 2.13."""
    return frozenset(inspect.signature(varlen_attn).parameters)


def _by_segment(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, scale: float | None
) -> Tensor:
    found = []
    segment_parts = zip(
        query.split(segments.queries, dim=2),
        key.split(segments.keys, dim=2),
        value.split(segments.keys, dim=2),
        strict=True,
    )
    for queries, keys, values in segment_parts:
        before = keys.shape[2] - queries.shape[2]
        mask = None
        if before:  # is_causal aligns the mask top left, but a completion starts after its prefix
            shape = queries.shape[2], keys.shape[2]
            mask = torch.ones(shape, dtype=torch.bool, device=queries.device).tril(before)
        found.append(
            scaled_dot_product_attention(
                queries, keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=True
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2)
