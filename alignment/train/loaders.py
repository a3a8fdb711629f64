"""Data loaders of a training on several devices: every process gets all rows of a step.

Not here: which of them it trains (`scoring/ranks.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.data_loader import prepare_data_loader


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
