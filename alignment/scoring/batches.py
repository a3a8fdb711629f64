"""Rows to micro-batches without padding, in which a prompt stands once however many replies it has.

A `Tree` is a trunk (the prompt) and branches (texts that follow it). Trees are laid end to end:
`[trunk, branch, branch, trunk, branch, ...]`; which tokens a token may see is in `Segments`, and
positions count on from the trunk in every branch, so each branch is computed as if it stood alone.
Not here: attention itself (`attention.py`), how many tokens fit into memory (`budget.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from alignment.models.chat_template import IGNORED

if TYPE_CHECKING:
    from torch import Tensor, device


@dataclass(frozen=True)
class Tree:
    """A prompt and the texts that follow it, as token ids.

    Attributes:
        trunk: ids that every branch sees; may be empty.
        branches: ids of each text.
        labels: per branch, its ids with `IGNORED` where nothing is predicted; None = all are.
    """

    trunk: Sequence[int]
    branches: Sequence[Sequence[int]]
    labels: Sequence[Sequence[int]] | None = None

    @cached_property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.trunk) + sum(map(len, self.branches))


@dataclass(frozen=True)
class Segments:
    """Which keys each query may see: segment i of the queries sees segment i of the keys, causally.

    The last query of a segment sees its last key (bottom-right causal), so a branch of 3 tokens
    after a trunk of 5 has 3 queries and 8 keys.

    Attributes:
        queries, keys: lengths of the segments.
        longest: the longest of each.
        gather: [keys in all] places of the keys among the tokens; None where keys = queries.
        queries_from, keys_from: [segments + 1] int32, where each segment starts.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    longest: tuple[int, int]
    gather: "Tensor | None"
    queries_from: "Tensor"
    keys_from: "Tensor"

    def to(self, device: "device") -> Self:
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
            the trunk's last for the first token of a branch.
        targets: [predictions] the ids predicted.
        owners: [predictions] number of the branch, counted over all trees.
        branches: how many there are.
    """

    ids: "Tensor"
    positions: "Tensor"
    segments: Segments
    sources: "Tensor"
    targets: "Tensor"
    owners: "Tensor"
    branches: int

    def to(self, device: "device") -> Self:
        """The same on a device."""
        return type(self)(
            self.ids.to(device),
            self.positions.to(device),
            self.segments.to(device),
            self.sources.to(device),
            self.targets.to(device),
            self.owners.to(device),
            self.branches,
        )

    def per_branch(self, values: "Tensor") -> "Tensor":
        """Sums of [predictions] values over each branch: [branches], fp64.

        A GPU adds in an order that changes, and in fp32 a reply of 45,000 nats has steps of 0.004:
        policy and reference would differ where every one of their log-probs is the same.
        """
        wide = values.double()
        return wide.new_zeros(self.branches).index_add(0, self.owners, wide)

    @cached_property
    def predicted(self) -> "Tensor":
        """Targets of each branch: [branches], int64."""
        return self.owners.bincount(minlength=self.branches)


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


def lay_out(trees: Sequence[Tree]) -> MicroBatch:
    """The trees as one micro-batch, on the CPU."""
    import torch

    ids: list[int] = []
    positions: list[Tensor] = []
    seen: list[tuple[Tensor, ...]] = []  # places of the keys, per segment
    queries: list[int] = []
    predictions: list[tuple[Tensor, Tensor, Tensor]] = []
    for tree in trees:
        trunk = torch.arange(len(ids), len(ids) + len(tree.trunk))
        if tree.trunk:
            ids += tree.trunk
            positions.append(torch.arange(len(trunk)))
            queries.append(len(trunk))
            seen.append((trunk,))
        for branch, labels in zip(tree.branches, tree.labels or tree.branches, strict=True):
            own = torch.arange(len(ids), len(ids) + len(branch))
            ids += branch
            positions.append(torch.arange(len(trunk), len(trunk) + len(branch)))
            if branch:
                queries.append(len(branch))
                seen.append((trunk, own))
            path = torch.cat((trunk[-1:], own))  # before each token of the branch, and the last
            predictions.append(_predictions(path, labels, number=len(predictions)))
    sources, targets, owners = (torch.cat(parts) for parts in zip(*predictions, strict=True))
    return MicroBatch(
        ids=torch.tensor(ids),
        positions=torch.cat(positions),
        segments=_segments(queries, seen),
        sources=sources,
        targets=targets,
        owners=owners,
        branches=len(predictions),
    )


def _predictions(
    path: "Tensor", labels: Sequence[int], *, number: int
) -> "tuple[Tensor, Tensor, Tensor]":
    """Sources, targets and owners of one branch; the first token of a text has nothing before it.

    `path` are the places before each token of the branch, one fewer where there is no trunk.
    """
    import torch

    target = torch.tensor(labels)[len(labels) + 1 - len(path) :]
    source = path[:-1]
    learnt = target != IGNORED
    return source[learnt], target[learnt], torch.full((int(learnt.sum()),), number)


def _segments(queries: Sequence[int], seen: "Sequence[tuple[Tensor, ...]]") -> Segments:
    import torch

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
