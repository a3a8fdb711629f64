"""Packed attention: rows laid end to end do not attend to each other.

Registered with transformers under the name `packed`, so that a model's own code calls it. Without
`segments` (generation, padded batches) it is transformers' SDPA, unchanged. On CUDA in half
precision, one call of torch's variable-length kernel handles all rows; elsewhere each segment is
one SDPA call, exact in fp32. A sink is one more key in that call. Scores that are capped are
computed explicitly, [heads, queries, keys] per segment, because no kernel of torch does that.
Not here: how segments are built (`batches.py`), which models can be packed (`packable.py`).
"""

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from alignment.errors import ModelError
from alignment.scoring.batches import Segments
from alignment.scoring.head import plain
from alignment.scoring.packable import packing_obstacle

NAME = "packed"

KERNEL_HEAD_SIZE = 256
"""Largest head size that the variable-length kernel takes."""


@dataclass(frozen=True)
class Scores:
    """How a layer forms its attention scores.

    Attributes:
        scale: factor of the products of queries and keys; None means 1 / sqrt(head size).
        window: a token attends to this many tokens, itself included; None means to all before it.
        cap: scores s become cap * tanh(s / cap).
        sinks: [heads], a score per head that takes part in the softmax and has no value.
    """

    scale: float | None = None
    window: int | None = None
    cap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether SDPA computes them as they are."""
        return self.cap is None and self.sinks is None

    def factor(self, query: Tensor) -> float:
        """The factor of the products, for queries of this head size."""
        return float(query.shape[-1] ** -0.5 if self.scale is None else self.scale)


def use_packed_attention(model: Any) -> None:
    """Make a model, with or without adapters, use packed attention when it is given `segments`.

    Raises:
        ModelError: the packed engine does not support it.
    """
    inner = plain(model)
    if inner.config._attn_implementation == NAME:
        return
    reason = packing_obstacle(inner.config)
    if reason:
        raise ModelError(
            f"the packed engine cannot run this model: {reason}; set engine.name=stock in "
            "sft.training, dpo and evaluation"
        )
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    inner.set_attn_implementation(NAME)


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scores: Scores
) -> Tensor:
    """Causal attention within each segment.

    Args:
        query: [1, heads, tokens, head size].
        key: [1, key heads, tokens, head size]; heads is a multiple of key heads.
        value: like key, perhaps of another head size.
        segments: which keys each query may attend to.
        scores: how scores are formed.

    Returns:
        [1, tokens, heads, value's head size], as transformers expects.
    """
    if query.is_cuda and torch.is_autocast_enabled("cuda"):  # autocast covers SDPA, not this kernel
        half = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(half), key.to(half), value.to(half)
    if segments.gather is not None:
        key, value = key.index_select(2, segments.gather), value.index_select(2, segments.gather)
    if _kernel_takes(query, scores):
        return _by_kernel(query, key, value, segments, scores)
    return _by_segment(query, key, value, segments, scores)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in place of SDPA."""
    segments = options.pop("segments", None)
    scores = Scores(
        scale=options.get("scaling"),
        window=options.get("sliding_window"),
        cap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    if segments is not None:
        return attend_packed(query, key, value, segments, scores), None
    if scores.plain:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if mask is None:  # transformers leaves out the mask of rows without padding
        mask = _visible(query.shape[2], key.shape[2], None, query.device)
    return _attend_oddly(query, key, value, mask, scores).transpose(1, 2), None


def _kernel_takes(query: Tensor, scores: Scores) -> bool:
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    windowed = scores.window is None or "window_size" in _kernel_options()
    return half and scores.plain and windowed and query.shape[-1] <= KERNEL_HEAD_SIZE


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scores: Scores
) -> Tensor:
    known, size = _kernel_options(), value.shape[-1]
    value = pad(value, (0, key.shape[-1] - size))  # the kernel takes one head size
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    options: dict[str, Any] = {"scale": scores.scale} if "scale" in known else {}
    before = -1 if scores.window is None else scores.window - 1
    options |= {"window_size": (before, 0)} if "window_size" in known else {"is_causal": True}
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
    return cast(Tensor, found)[..., :size].unsqueeze(0)


@cache
def _kernel_options() -> frozenset[str]:
    """Argument names of torch's kernel; they differ between torch 2.11 and 2.13."""
    return frozenset(inspect.signature(varlen_attn).parameters)


def _by_segment(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scores: Scores
) -> Tensor:
    segment_parts = zip(
        query.split(segments.queries, dim=2),
        key.split(segments.keys, dim=2),
        value.split(segments.keys, dim=2),
        strict=True,
    )
    found = [attend_segment(*parts, scores) for parts in segment_parts]
    return torch.cat(found, dim=2).transpose(1, 2)


def attend_segment(query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
    """Causal attention of the last tokens of one segment: [1, heads, queries, value's head size].

    Args:
        query: [1, heads, queries, head size]; the last query is at the last key.
        key: [1, key heads, keys, head size].
        value: like key, perhaps of another head size.
        scores: how scores are formed.
    """
    queries, keys = query.shape[2], key.shape[2]
    # is_causal aligns the mask top left, but a completion starts after its prefix
    whole = queries in (1, keys) and (scores.window is None or scores.window >= keys)
    mask = None
    if not (whole and scores.plain):
        mask = _visible(queries, keys, scores.window, query.device)
    if mask is not None:
        return attend(query, key, value, mask, scores)
    return scaled_dot_product_attention(
        query, key, value, is_causal=queries > 1, scale=scores.scale, enable_gqa=True
    )


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scores: Scores) -> Tensor:
    """Attention to the keys that a mask shows: [rows, heads, queries, value's head size].

    Args:
        query: [rows, heads, queries, head size].
        key: [rows, key heads, keys, head size].
        value: like key, perhaps of another head size.
        mask: [queries, keys] or [rows, 1, queries, keys], True where a query attends to a key.
        scores: how scores are formed; its window is not used.
    """
    if not scores.plain:
        return _attend_oddly(query, key, value, mask, scores)
    return scaled_dot_product_attention(
        query, key, value, mask, scale=scores.scale, enable_gqa=True
    )


def _visible(queries: int, keys: int, window: int | None, device: Any) -> Tensor:
    """Which keys each query attends to, [queries, keys]; the last query is at the last key."""
    before = keys - queries
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(before)
    return mask if window is None else mask.triu(before - window + 1)


def _attend_oddly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scores: Scores
) -> Tensor:
    """As `attend`, with capped scores or sinks."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    if scores.cap is None:
        return _with_sink_key(query, key, value, mask, scores)
    return _explicit(query, key, value, mask, scores)


SINK_SIZE = 8
"""How much longer heads get for the sinks: kernels take multiples of 8."""


def _with_sink_key(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scores: Scores
) -> Tensor:
    """SDPA with one more key, whose score is the head's sink and whose value is zero.

    That key is zero but for two new elements, 1 and 1. Every query has the sink there, divided by
    the scale and split in two, because one number of half precision would round it.
    """
    assert scores.sinks is not None
    scale = scores.factor(query)
    sinks = scores.sinks.float() / scale
    high = sinks.to(query.dtype)
    split = torch.stack([high, (sinks - high.float()).to(query.dtype)], dim=-1)
    split = split.view(1, -1, 1, 2).expand(*query.shape[:3], 2)
    query = torch.cat([query, pad(split, (0, SINK_SIZE - 2))], dim=3)
    key = pad(key, (0, SINK_SIZE, 0, 1))
    key[:, :, -1, -SINK_SIZE : 2 - SINK_SIZE] = 1
    found = scaled_dot_product_attention(
        query, key, pad(value, (0, 0, 0, 1)), pad(mask, (0, 1), value=True), scale=scale
    )
    return found


def _explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scores: Scores) -> Tensor:
    found = query @ key.transpose(2, 3) * scores.factor(query)
    if scores.cap is not None:
        found = scores.cap * torch.tanh(found / scores.cap)
    found = found.masked_fill(~mask, torch.finfo(found.dtype).min)
    if scores.sinks is not None:
        sinks = scores.sinks.to(found.dtype).view(1, -1, 1, 1).expand(*found.shape[:3], 1)
        found = torch.cat([found, sinks], dim=3)
    weights = found.softmax(dim=3, dtype=torch.float32)[..., : key.shape[2]]
    return weights.to(value.dtype) @ value
