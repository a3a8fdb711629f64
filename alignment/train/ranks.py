"""The processes of a training on several devices, one each: who trains which rows of a step.

Every process gets all rows of an optimiser step, in the order of a training on one device, and
takes its share of them by tokens. So the gradients are those of one device, also of a last step
with fewer rows, and a training can go on with another number of devices.
Not here: starting the processes (`execution/launch.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, distributed

from alignment.scoring.batches import balanced


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


@contextmanager
def whole_batches(accelerator: Any) -> Iterator[None]:
    """Within the block, data loaders give each process whole batches instead of every n-th one."""

    def prepare(loader: Any, **_: Any) -> Any:
        prepared = prepare_data_loader(
            loader,
            accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=accelerator.device_placement,
            rng_types=accelerator.rng_types.copy(),
            use_seedable_sampler=accelerator.use_seedable_sampler,
            data_seed=accelerator.dataloader_config.data_seed,
            non_blocking=accelerator.non_blocking,
        )
        accelerator._dataloaders.append(prepared)
        return prepared

    if accelerator.num_processes == 1:
        yield
        return
    accelerator.prepare_data_loader = prepare
    try:
        yield
    finally:
        del accelerator.prepare_data_loader
