"""The processes of a step on several devices, one each: who takes which rows, and what all found.

In a training, every process gets all rows of an optimiser step, in the order of a training on one
device, and takes its share of them by tokens. So the gradients are those of one device, also of a
last step with fewer rows, and a training can go on with another number of devices. Scores and
answers are shared out by row, and every process then has all of them.
Not here: starting the processes (`execution/launch.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from alignment.scoring.batches import balanced

Found = TypeVar("Found")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training.

    Attributes:
        number: its rank, from 0.
        count: number of processes.
    """

    number: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "Ranks":
        """As torch's process group has them; one process if there is no group."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def share(self, sizes: Sequence[int]) -> list[int]:
        """The rows of a step that this process trains; empty if others have all."""
        if self.count == 1:
            return list(range(len(sizes)))
        return balanced(sizes, self.count)[self.number]

    def complete(self, own: Tensor, share: Sequence[int], rows: int) -> Tensor:
        """The values of all rows, [rows, columns], from those of this process's share."""
        if self.count == 1:
            return own
        whole = own.new_zeros(rows, own.shape[1])
        whole[list(share)] = own[: len(share)]
        distributed.all_reduce(whole)
        return whole

    def agree(self, device: torch.device, *, on: bool) -> bool:
        """Whether it is true in any process."""
        if self.count == 1:
            return on
        found = torch.tensor([int(on)], device=device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return bool(found.item())

    def wait(self, device: torch.device) -> None:
        """Wait until every process is here."""
        self.agree(device, on=False)

    def spread(
        self, sizes: Sequence[int], find: Callable[[Sequence[int]], Sequence[Found]]
    ) -> list[Found]:
        """What is found of every row, each by one process; `find` takes rows of a share."""
        share = self.share(sizes)
        own = list(zip(share, find(share), strict=True))
        found = dict(pair for part in self.gathered(own) for pair in part)
        return [found[row] for row in range(len(sizes))]

    def gathered(self, own: Found) -> list[Found]:
        """What each process has, in their order; all wait for the last one."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, own)
        return found

    def first(self, make: Callable[[], Found]) -> Found:
        """What the first process makes, while the others wait for it."""
        made: list[Any] = [None if self.number else make()]
        if self.count > 1:
            distributed.broadcast_object_list(made)
        found: Found = made[0]
        return found

    def counted(self, own: int, rows: int) -> int:
        """About how many of so many rows all processes have done, if this one has done `own`."""
        return min(rows, own * self.count)
