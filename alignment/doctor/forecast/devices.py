"""Devices to train on: memory, speed, and how the forecast was checked on them."""

import os
from collections.abc import Mapping

import psutil

from alignment.errors import UsageError
from alignment.records.base import Frozen

GIB = 2**30


class Device(Frozen):
    """A machine to train on.

    Attributes:
        memory: bytes that a process can use: the stated size minus the driver's share.
        flops: operations per second in dense matrix products. On a GPU the vendor's figure for
            bfloat16, on a CPU a measured one for fp32.
        bf16_gain: speed of bfloat16 relative to `flops`.
        reached: share of `flops` that training reaches with large micro-batches.
        masked: share of `flops` that attention reaches in a padded micro-batch, whose mask is
            dense; 0 if `reached` already includes it.
        launch: seconds that the host needs to launch one LoRA layer in one pass; this limits small
            micro-batches. 0 on a CPU, where it is negligible.
        resident: bytes used outside tensors: a CUDA context, or Python with its libraries.
        kept: bytes held per live byte of activations; above 1 if freed memory is not returned.
        checked: which measured runs these numbers are based on, as text.
    """

    name: str
    memory: float
    flops: float
    bf16_gain: float = 1.0
    reached: float
    masked: float = 0.0
    launch: float
    resident: float
    kept: float = 1.0
    checked: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.launch > 0

    def within(self, gib: float | None) -> "Device":
        """The device with tensor memory limited to `gib`; None: no limit. Never limits a CPU."""
        if gib is None or not self.is_gpu:
            return self
        return self.model_copy(update={"memory": min(self.memory, gib * GIB + self.resident)})


H100_REACHED, H100_LAUNCH = 0.296, 0.00152
"""From TRL's SFT trainer on the 7B shape in NF4: 2 rows of 4,096 tokens take 1.22 s (limited by
arithmetic), 2 rows of 600 tokens 0.89 s (limited by the host)."""
H200_REACHED, H200_LAUNCH = 0.365, 0.00119
"""From SFT on that shape with rows of about 640 tokens: 16 packed rows take 1.24 s (limited by
arithmetic), 2 rows in TRL 0.70 s (limited by the host, a different one from the H100's). DPO was
not used for the fit."""
MASKED = 0.06
"""From 16 rows of 580 tokens on an H100: padded (5.5 s, forecast 5.1), and concatenated under one
dense mask (3.75 s, forecast 4.0)."""
CPU_FLOPS_PER_CORE = 38e9
"""From the practice run on two cores; the forecast is 12 % short for SFT, 11 % long for a round."""
CPU_BF16_GAIN = 2.2
"""From the practice run's packed steps with AVX512_BF16: SFT 3.6 s (forecast 3.5), DPO 6.7 (6.9).
Without AVX512_BF16 or AMX, bfloat16 is slower than fp32; the run warns about that."""
CPU_KEPT = 2.35
"""Fitted together with `PYTHON` to five peaks of the practice run, all within 15 %: fp32, padded,
2.12 GiB (SFT, 4 rows), 3.31 and 9.89 (4 and 16 pairs); bfloat16, packed, 2.41 (SFT), 2.72 (DPO)."""
CONTEXT = 0.5 * GIB
PYTHON = 0.55 * GIB


def _gpu(
    name: str,
    gib: float,
    flops: float,
    *,
    reached: float = H100_REACHED,
    launch: float = H100_LAUNCH,
    checked: str = "Not checked on this device: assumed to reach the same share of its stated "
    "speed as an H100.",
) -> Device:
    return Device(
        name=name,
        memory=gib * GIB,
        flops=flops,
        reached=reached,
        masked=MASKED,
        launch=launch,
        resident=CONTEXT,
        checked=checked,
    )


_H100_CHECKED = (
    "Fitted to two runs of TRL's trainer on an H100, checked on others (docs/doctor.md)."
)
_H200_CHECKED = "Fitted to two runs on an H200, checked on two others (docs/doctor.md)."
_GPUS = (
    _gpu("a100-40gb", 39.5, 312e12),
    _gpu("a100-80gb", 79.2, 312e12),
    _gpu("h100-80gb", 79.1, 989e12, checked=_H100_CHECKED),
    _gpu("h200", 139.8, 989e12, reached=H200_REACHED, launch=H200_LAUNCH, checked=_H200_CHECKED),
)
NAMES = (*(device.name for device in _GPUS), "cpu")


def find_device(name: str) -> Device:
    """The device with this name; "cpu" is this machine.

    Raises:
        UsageError: there is no such device.
    """
    known: Mapping[str, Device] = {device.name: device for device in _GPUS}
    if name == "cpu":
        return _this_machine()
    if name not in known:
        raise UsageError(f"--device {name!r} is not known; choose one of {', '.join(NAMES)}")
    return known[name]


def _this_machine() -> Device:
    cores = os.cpu_count() or 1
    return Device(
        name=f"cpu, {cores} cores",
        memory=float(psutil.virtual_memory().total),
        flops=cores * CPU_FLOPS_PER_CORE,
        bf16_gain=CPU_BF16_GAIN,
        reached=1.0,
        launch=0.0,
        resident=PYTHON,
        kept=CPU_KEPT,
        checked="Fitted to the practice run on two cores (docs/doctor.md).",
    )
