"""Packs rows into unpadded micro-batches; replies to one prompt share its tokens.

A `PackedRow` is a prefix (the prompt) and the completions that follow it. Rows are laid end to
end: `[prefix, completion, completion, prefix, completion, ...]`. `Segments` says which tokens a
token may attend to. Positions continue from the prefix in every completion, so each completion is
computed as if it were alone.
Not here: attention itself (`attention.py`), how many tokens fit into memory (`budget.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor, device

from alignment.models.chat_template import IGNORED


@dataclass(frozen=True)
class PackedRow:
    """A prompt and the texts that follow it, as token ids.

    Attributes:
        prefix: ids that every completion sees; may be empty.
        completions: ids of each text.
        labels: per completion, its ids with `IGNORED` where nothing is predicted; None = all are.
    """

    prefix: Sequence[int]
    completions: Sequence[Sequence[int]]
    labels: Sequence[Sequence[int]] | None = None

    @cached_property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.prefix) + sum(map(len, self.completions))


@dataclass(frozen=True)
class Segments:
    """Which keys each query may see: segment i of the queries sees segment i of the keys, causally.

    The last query of a segment sees its last key (bottom-right causal), so a completion of 3 tokens
    after a prefix of 5 has 3 queries and 8 keys.

    Attributes:
        queries, keys: lengths of the segments.
        longest: the longest of each.
        gather: [keys in all] places of the keys among the tokens; None where keys = queries.
        queries_from, keys_from: [segments + 1] int32, where each segment starts.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    longest: tuple[int, int]
    gather: Tensor | None
    queries_from: Tensor
    keys_from: Tensor

    def to(self, device: device) -> Self:
        """The same on a device."""
        return type(self)(
            self.queries,
            self.keys,
            self.longest,
            None if self.gather is None else self.gather.to(device),
            self.queries_from.to(device),
            self.keys_from.to(device),
        )


@dataclass(frozen=True)
class MicroBatch:
    """Trees laid end to end.

    Attributes:
        ids, positions: [tokens].
        segments: who sees whom.
        sources: [predictions] places whose hidden state predicts a target: the one before it, or
            the prefix's last for the first token of a completion.
        targets: [predictions] the ids predicted.
        owners: [predictions] number of the completion, counted over all rows.
        completions: how many there are.
    """

    ids: Tensor
    positions: Tensor
    segments: Segments
    sources: Tensor
    targets: Tensor
    owners: Tensor
    completions: int

    def to(self, device: device) -> Self:
        """The same on a device."""
        return type(self)(
            self.ids.to(device),
            self.positions.to(device),
            self.segments.to(device),
            self.sources.to(device),
            self.targets.to(device),
            self.owners.to(device),
            self.completions,
        )

    def per_completion(self, values: Tensor) -> Tensor:
        """Sums of [predictions] values over each completion: [completions], fp64.

        A GPU adds in an order that changes, and in fp32 a reply of 45,000 nats has steps of 0.004:
        policy and reference would differ where every one of their log-probs is the same.
        """
        wide = values.double()
        return wide.new_zeros(self.completions).index_add(0, self.owners, wide)

    @cached_property
    def predicted(self) -> Tensor:
        """Targets of each completion: [completions], int64."""
        return self.owners.bincount(minlength=self.completions)


def split(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Numbers of rows in as few groups as first-fit-decreasing finds, each within the budget.

    A row larger than the budget is a group of its own. Deterministic: ties keep their order.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for row in _longest_first(sizes):
        at = next((i for i, left in enumerate(room) if sizes[row] <= left), None)
        if at is None:
            groups.append([])
            room.append(budget)
            at = len(groups) - 1
        groups[at].append(row)
        room[at] -= sizes[row]
    return groups


def level(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """As many groups as `split` makes, of about the same size where that fits (Graham 1969, LPT).

    The last group of `split` is what was left over, often too little to keep a GPU busy, and its
    first ones are full, which decides how much memory is needed.
    """
    groups = split(sizes, budget)
    leveled: list[list[int]] = [[] for _ in groups]
    loads = [0] * len(groups)
    for row in _longest_first(sizes):
        at = loads.index(min(loads))
        leveled[at].append(row)
        loads[at] += sizes[row]
    fits = all(
        load <= budget or len(group) == 1 for group, load in zip(leveled, loads, strict=True)
    )
    return leveled if fits else groups


def _longest_first(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda row: -sizes[row])


def lay_out(packed_rows: Sequence[PackedRow]) -> MicroBatch:
    """The rows as one micro-batch, on the CPU."""
    ids: list[int] = []
    positions: list[Tensor] = []
    seen: list[tuple[Tensor, ...]] = []  # places of the keys, per segment
    queries: list[int] = []
    predictions: list[tuple[Tensor, Tensor, Tensor]] = []
    for packed_row in packed_rows:
        prefix = torch.arange(len(ids), len(ids) + len(packed_row.prefix))
        if packed_row.prefix:
            ids += packed_row.prefix
            positions.append(torch.arange(len(prefix)))
            queries.append(len(prefix))
            seen.append((prefix,))
        for completion, labels in zip(
            packed_row.completions, packed_row.labels or packed_row.completions, strict=True
        ):
            own = torch.arange(len(ids), len(ids) + len(completion))
            ids += completion
            positions.append(torch.arange(len(prefix), len(prefix) + len(completion)))
            if completion:
                queries.append(len(completion))
                seen.append((prefix, own))
            path = torch.cat(
                (prefix[-1:], own)
            )  # before each token of the completion, and the last
            predictions.append(_predictions(path, labels, number=len(predictions)))
    sources, targets, owners = (torch.cat(parts) for parts in zip(*predictions, strict=True))
    return MicroBatch(
        ids=torch.tensor(ids),
        positions=torch.cat(positions),
        segments=_segments(queries, seen),
        sources=sources,
        targets=targets,
        owners=owners,
        completions=len(predictions),
    )


def _predictions(
    path: Tensor, labels: Sequence[int], *, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, targets and owners of one completion. The first token of a text has no source.

    `path` are the places before each token of the completion, one fewer where there is no prefix.
    """
    target = torch.tensor(labels)[len(labels) + 1 - len(path) :]
    source = path[:-1]
    learnt = target != IGNORED
    return source[learnt], target[learnt], torch.full((int(learnt.sum()),), number)


def _segments(queries: Sequence[int], seen: Sequence[tuple[Tensor, ...]]) -> Segments:
    keys = [sum(map(len, parts)) for parts in seen]
    shared = list(queries) != keys
    return Segments(
        queries=tuple(queries),
        keys=tuple(keys),
        longest=(max(queries), max(keys)),
        gather=torch.cat([part for parts in seen for part in parts]) if shared else None,
        queries_from=torch.tensor([0, *accumulate(queries)], dtype=torch.int32),
        keys_from=torch.tensor([0, *accumulate(keys)], dtype=torch.int32),
    )
