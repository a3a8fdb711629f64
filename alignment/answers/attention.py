"""Attention over cached keys and values: of whole prompts, and of one new token per row.

Registered with transformers under the name `cached`, so that a model's own code calls it.
A decoding step on a GPU is one call of torch's variable-length kernel per layer: it reads exactly
the tokens of each row, and each key once for all query heads that share it. Elsewhere rows of
similar length are padded and share one SDPA call.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from alignment.answers.cache import Cache, bytes_per_token
from alignment.scoring.attention import (
    KERNEL_HEAD_SIZE,
    Scores,
    attend,
    attend_packed,
)
from alignment.scoring.batches import Segments
from alignment.scoring.head import plain

NAME = "cached"
HALF = (torch.bfloat16, torch.float16)


class CachedAttention(ABC):
    """What the attention of every layer does in one forward pass."""

    @abstractmethod
    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scores: Scores
    ) -> Tensor:
        """Attention of all tokens: [1, tokens, heads, value's head size].

        Args:
            module: the layer's attention.
            query: [1, heads, tokens, head size].
            key: [1, key heads, tokens, head size] of the same tokens.
            value: like key.
            scores: how scores are formed.
        """


@dataclass
class NotingAttention(CachedAttention):
    """Nothing is cached: notes what layers need, on one row of a few tokens.

    Attributes:
        token_bytes: memory of the keys and values of one token, all layers together.
        obstacle: why the kernel cannot run a layer; None if it runs all.
    """

    token_bytes: int = 0
    obstacle: str | None = None

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scores: Scores
    ) -> Tensor:
        """Attend as one segment, and note the layer."""
        del module
        self.token_bytes += bytes_per_token(key, value)
        self.obstacle = self.obstacle or _kernel_obstacle(query, key, value, scores)
        return attend_packed(query, key, value, segments([query.shape[2]], query.device), scores)


@dataclass(frozen=True)
class PromptAttention(CachedAttention):
    """Prompts laid end to end, whose keys and values go into the regions of their rows.

    Attributes:
        segments: one per prompt.
        sources: [cached tokens] where in the batch each cached token stands. A prompt with several
            rows is read once and cached for each.
        targets: [cached tokens] where in the cache it belongs.
    """

    cache: Cache
    segments: Segments
    sources: Tensor
    targets: Tensor

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scores: Scores
    ) -> Tensor:
        """Cache the keys and values, and attend within each prompt."""
        cached = self.cache.layer(module, key, value)
        for memory, new in zip(cached, (key, value), strict=True):
            memory[self.targets] = new[0].transpose(0, 1)[self.sources]
        return attend_packed(query, key, value, self.segments, scores)


@dataclass(frozen=True)
class _Group:
    """Rows of similar length, padded to the longest of them.

    Attributes:
        rows: [group] numbers of the rows.
        tokens: [group, longest] where in the cache the tokens of each row are; of its last one as
            often as it is padded.
        lengths: [group] tokens of each row.
    """

    rows: Tensor
    tokens: Tensor
    lengths: Tensor

    def visible(self, window: int | None) -> Tensor:
        """Which tokens the newest token of each row attends to: [group, 1, 1, longest]."""
        at, lengths = torch.arange(self.tokens.shape[1]), self.lengths[:, None]
        found = at < lengths
        if window is not None:
            found &= at >= lengths - window
        return found[:, None, None]


def _groups(starts: Tensor, lengths: Tensor) -> list[_Group]:
    """Every row in one group; padded, none is more than twice as long."""
    sizes = torch.tensor([length.bit_length() for length in lengths.tolist()])
    groups = []
    for size in sizes.unique():
        rows = (sizes == size).nonzero()[:, 0]
        own = lengths[rows]
        within = torch.minimum(torch.arange(int(own.max())), own[:, None] - 1)
        groups.append(_Group(rows, starts[rows][:, None] + within, own))
    return groups


@dataclass(frozen=True)
class StepAttention(CachedAttention):
    """One new token per row, which attends to all tokens of its row.

    Attributes:
        targets: [rows] where in the cache each new token belongs.
        starts: [rows] where each row's region begins.
        lengths: [rows] tokens of each row, the new one included.
        longest: the kernel is prepared for rows of up to so many tokens; None: SDPA, which reads
            lengths on the host.
    """

    cache: Cache
    targets: Tensor
    starts: Tensor
    lengths: Tensor
    longest: int | None
    _groups: list[_Group] = field(default_factory=list)

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scores: Scores
    ) -> Tensor:
        """Cache the new tokens' keys and values, then attend."""
        keys, values = self.cache.layer(module, key, value)
        keys.index_copy_(0, self.targets, key[0].transpose(0, 1))
        values.index_copy_(0, self.targets, value[0].transpose(0, 1))
        if self.longest is not None:
            return self._by_kernel(query, keys, values, scores)
        return self._by_group(query, keys, values, scores)

    def _by_group(self, query: Tensor, keys: Tensor, values: Tensor, scores: Scores) -> Tensor:
        if not self._groups:  # the same for every layer
            self._groups.extend(_groups(self.starts, self.lengths))
        found = query.new_empty(query.shape[2], query.shape[1], values.shape[2])
        for group in self._groups:
            found[group.rows] = attend(
                query[0].transpose(0, 1)[group.rows][:, :, None],
                keys[group.tokens].transpose(1, 2),
                values[group.tokens].transpose(1, 2),
                group.visible(scores.window),
                scores,
            )[:, :, 0]
        return found[None]

    def _by_kernel(self, query: Tensor, keys: Tensor, values: Tensor, scores: Scores) -> Tensor:
        rows = len(self.starts)
        begins = torch.cat([self.starts, self.starts.new_zeros(1)]).int()
        before = None if scores.window is None else scores.window - 1
        found = torch.ops.aten._flash_attention_forward(
            query[0].transpose(0, 1).contiguous(),
            keys,
            values,
            torch.arange(rows + 1, dtype=torch.int32, device=query.device),
            begins,
            1,
            self.longest,
            0.0,
            False,  # noqa: FBT003 (a single query sees every key that there is)
            False,  # noqa: FBT003 (no debug mask)
            scale=scores.scale,
            window_size_left=before,
            window_size_right=None if before is None else 0,
            seqused_k=self.lengths.int(),
        )
        return cast(Tensor, found[0])[None]


def segments(lengths: list[int], device: Any) -> Segments:
    """Rows laid end to end, each attending to itself."""
    offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    sizes, longest = tuple(lengths), max(lengths)
    return Segments(sizes, sizes, (longest, longest), None, offsets, offsets)


@contextmanager
def cached_attention(model: Any) -> Iterator[None]:
    """Let the model use this attention, if it is given `cached`; its own is restored at the end."""
    inner = plain(model)
    before = inner.config._attn_implementation
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def hidden_states(model: Any, ids: Tensor, positions: Tensor, cached: CachedAttention) -> Tensor:
    """The decoder's last hidden states of tokens laid end to end: [tokens, hidden]."""
    states: Tensor = (
        plain(model)
        .get_decoder()(
            input_ids=ids[None],
            position_ids=positions[None],
            # transformers uses a 4-D mask as given and does not build one of [tokens, tokens]
            attention_mask=ids.new_ones(1, 1, 1, 1),
            use_cache=False,
            # not named `segments`: layers compiled for training listen to that name
            cached=cached,
        )
        .last_hidden_state[0]
    )
    return states


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in place of SDPA."""
    del mask
    scores = Scores(
        scale=options.get("scaling"),
        window=options.get("sliding_window"),
        cap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    attention: CachedAttention = options["cached"]
    return attention(module, query, key, value, scores), None


def _kernel_obstacle(query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> str | None:
    if query.dtype not in HALF:
        return f"torch's kernel takes half precision, not {query.dtype}"
    if not scores.plain:
        return "it caps its attention scores or shares them with a sink"
    if query.shape[3] > KERNEL_HEAD_SIZE or key.shape[3] != value.shape[3]:
        return f"torch's kernel takes heads of one size up to {KERNEL_HEAD_SIZE}"
    return None
