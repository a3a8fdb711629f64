"""Keys and values of many rows in one memory, in which each row has a region of its own.

A row's greatest length is known before it starts, so a region is reserved whole and never moves;
a table of pages would save what answers that stop early leave unused, and no kernel of torch 2.11
reads one.
"""

from typing import Any

import torch
from torch import Tensor


class Cache:
    """Keys and values of every layer, and which tokens of them are free.

    Token 0 belongs to no row: rows that fill up a batch of fixed size use it.

    Args:
        tokens: tokens for rows.
    """

    def __init__(self, tokens: int) -> None:
        self._size = tokens + 1
        self._free = [(1, tokens)]  # start and length, in order
        self._layers: dict[Any, tuple[Tensor, Tensor]] = {}

    def reserve(self, length: int) -> int | None:
        """The start of a free region, which is now in use; None if no region is long enough."""
        for at, (start, free) in enumerate(self._free):
            if free >= length:
                rest = [(start + length, free - length)] if free > length else []
                self._free[at : at + 1] = rest
                return start
        return None

    def release(self, start: int, length: int) -> None:
        """Free a region, joined with free neighbours."""
        joined: list[tuple[int, int]] = []
        for begin, size in sorted([*self._free, (start, length)]):
            if joined and sum(joined[-1]) == begin:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((begin, size))
        self._free = joined

    def layer(self, module: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, [tokens, key heads, head size] each.

        Args:
            module: the layer's attention.
            key: [1, key heads, any, head size]; the first one gives shape and dtype.
            value: likewise.
        """
        if module not in self._layers:
            self._layers[module] = (self._empty(key), self._empty(value))
        return self._layers[module]

    def _empty(self, like: Tensor) -> Tensor:
        # zeros: unwritten values have weight 0 in a masked sum, and 0 times NaN is NaN
        return like.new_zeros(self._size, like.shape[1], like.shape[3])


def bytes_per_token(key: Tensor, value: Tensor) -> int:
    """Memory of one token in a layer with such keys and values: [1, key heads, any, head size]."""
    return sum(
        part.shape[1] * part.shape[3] * torch.finfo(part.dtype).bits // 8 for part in (key, value)
    )
