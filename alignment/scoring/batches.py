"""Packs rows into unpadded micro-batches; replies to one prompt share its tokens.

A `PackedRow` is a prefix (the prompt) and the completions that follow it. Rows are laid end to
end: `[prefix, completion, completion, prefix, completion, ...]`. `Segments` says which tokens a
token may attend to. Positions continue from the prefix in every completion, so each completion is
computed as if it were alone.
Not here: attention (`attention.py`), how many tokens fit into memory (`budget.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor, device

from alignment.models.encoding import IGNORED


@dataclass(frozen=True)
class PackedRow:
    """A prompt and the texts that follow it, as token ids.

    Attributes:
        prefix: ids that every completion attends to; may be empty.
        completions: ids of each text that follows the prefix.
        labels: per completion, its ids with `IGNORED` at positions that are not targets; None
            makes every position a target.
        reference: summed log-prob of each completion under another model, if it is known.
    """

    prefix: Sequence[int]
    completions: Sequence[Sequence[int]]
    labels: Sequence[Sequence[int]] | None = None
    reference: Sequence[float] | None = None

    @cached_property
    def tokens(self) -> int:
        """Number of tokens that pass through the model."""
        return len(self.prefix) + sum(map(len, self.completions))

    @property
    def longest(self) -> int:
        """Number of tokens of the prompt and the longest text that follows it."""
        return len(self.prefix) + max(map(len, self.completions))


@dataclass(frozen=True)
class Segments:
    """Which keys each query attends to: query segment i attends to key segment i, causally.

    The last query of a segment attends to its last key (bottom-right causal), so a completion of
    3 tokens after a prefix of 5 has 3 queries and 8 keys.

    Attributes:
        queries, keys: segment lengths.
        longest: the longest query segment and the longest key segment.
        gather: [total keys] token positions of the keys; None if keys = queries.
        queries_from, keys_from: [segments + 1] int32, the offsets at which segments start.
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
    """Packed rows laid end to end.

    Attributes:
        ids, positions: [tokens].
        segments: which keys each query may attend to.
        sources: [predictions] token index whose hidden state predicts the target: the token
            before it, or the last prefix token for the first token of a completion.
        targets: [predictions] the ids predicted.
        owners: [predictions] index of the target's completion, counted over all rows.
        completions: number of completions in all rows.
        reference: [completions] the rows' own, if all have one.
    """

    ids: Tensor
    positions: Tensor
    segments: Segments
    sources: Tensor
    targets: Tensor
    owners: Tensor
    completions: int
    reference: Tensor | None = None

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
            None if self.reference is None else self.reference.to(device),
        )

    def per_completion(self, values: Tensor) -> Tensor:
        """Sums of [predictions] values over each completion: [completions], fp64.

        A GPU adds in no fixed order, and at 45,000 nats the resolution of fp32 is 0.004: the sums
        of policy and reference would differ even if all their log-probs were equal.
        """
        wide = values.double()
        return wide.new_zeros(self.completions).index_add(0, self.owners, wide)

    @cached_property
    def target_counts(self) -> Tensor:
        """Number of targets of each completion: [completions], int64."""
        return self.owners.bincount(minlength=self.completions)


def split(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Group row indices into as few groups within the budget as first-fit decreasing finds.

    A row larger than the budget is a group of its own. Deterministic: ties keep their order.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for row in _longest_first(sizes):
        at = next((i for i, free in enumerate(room) if sizes[row] <= free), None)
        if at is None:
            groups.append([])
            room.append(budget)
            at = len(groups) - 1
        groups[at].append(row)
        room[at] -= sizes[row]
    return groups


def level(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """As many groups as `split` makes, but of similar size if that fits.

    `split` fills its first groups, which determines the memory needed; its last group gets the
    remainder, which is often too small to keep a GPU busy.
    """
    groups = split(sizes, budget)
    leveled = balanced(sizes, len(groups))
    fits = all(sum(sizes[row] for row in group) <= budget or len(group) == 1 for group in leveled)
    return leveled if fits else groups


def balanced(sizes: Sequence[int], count: int) -> list[list[int]]:
    """So many groups of rows, of about the same size in all (Graham 1969, LPT)."""
    groups: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for row in _longest_first(sizes):
        at = loads.index(min(loads))
        groups[at].append(row)
        loads[at] += sizes[row]
    return groups


def _longest_first(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda row: -sizes[row])


def lay_out(packed_rows: Sequence[PackedRow]) -> MicroBatch:
    """Lay rows end to end as one micro-batch, on the CPU."""
    ids: list[int] = []
    positions: list[Tensor] = []
    seen: list[tuple[Tensor, ...]] = []  # token positions of the keys, per segment
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
            # The token before each token of the completion, then the completion's last token.
            path = torch.cat((prefix[-1:], own))
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
        reference=_reference(packed_rows),
    )


def _reference(packed_rows: Sequence[PackedRow]) -> Tensor | None:
    given = [one for packed_row in packed_rows for one in packed_row.reference or ()]
    return torch.tensor(given, dtype=torch.double) if given else None


def _predictions(
    path: Tensor, labels: Sequence[int], *, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, targets and owners of one completion. The first token of a text has no source.

    `path`: token positions of the last prefix token, if any, and of the completion's tokens.
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
