"""Where a run is to take place: memory, speed, and how far the forecast was checked there."""

import os
from collections.abc import Mapping

import psutil

from alignment.errors import UsageError
from alignment.records import Frozen

GIB = 2**30


class Device(Frozen):
    """A machine to train on.

    Attributes:
        memory: bytes that a process can use: what the card states less the driver's share.
        flops: dense matrix products a second as its maker states them (bfloat16 on a GPU); on a
            CPU what was measured, fp32.
        bf16_gain: how many times faster bfloat16 is than `flops`.
        reached: share of `flops` that training reaches once a micro-batch is large.
        masked: share of `flops` that attention reaches in a padded micro-batch, where its mask is
            dense; 0 where `reached` has it in it.
        launch: seconds that the host needs for one LoRA layer in one pass; a small micro-batch
            waits for it. 0 on a CPU, where it vanishes beside the arithmetic.
        resident: bytes taken beside tensors: a CUDA context, or Python with its libraries.
        kept: bytes held for each byte of activations that is alive; above 1 where freed memory
            does not go back.
        checked: in words, which measured runs stand behind these numbers.
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
        """The device where a run may take so much of its GPU's memory; None: all of it."""
        if gib is None or not self.is_gpu:
            return self
        return self.model_copy(update={"memory": min(self.memory, gib * GIB + self.resident)})


H100_REACHED, H100_LAUNCH = 0.296, 0.00152
"""Of TRL's SFT trainer on the 7B shape in NF4: 2 rows of 4,096 tokens take 1.22 s (limited by
arithmetic), 2 rows of 600 tokens 0.89 s (limited by the host)."""
H200_REACHED, H200_LAUNCH = 0.365, 0.00119
"""Of SFT on that shape, rows of about 640 tokens: 16 packed take 1.24 s (arithmetic), 2 under TRL
0.70 s (the host, another than the H100's). DPO was not fitted to."""
MASKED = 0.06
"""Of 16 rows of 580 tokens on an H100, padded (5.5 s, forecast 5.1) and end to end under one dense
mask (3.75 s, forecast 4.0)."""
CPU_FLOPS_PER_CORE = 38e9
"""Of the practice run on two cores: SFT then comes out 12 % short, a DPO round 11 % long."""
CPU_BF16_GAIN = 2.2
"""With AVX512_BF16, of the practice run's packed steps: SFT 3.6 s (forecast 3.5), DPO 6.7 (6.9).
A machine without it, or AMX, is slower in bfloat16 than in fp32; a run says so."""
CPU_KEPT = 2.35
"""With `PYTHON`, of five peaks of the practice run, none off by 15 %: fp32, padded, 2.12 GiB (SFT,
4 rows), 3.31 and 9.89 (4 and 16 pairs); bfloat16, packed, 2.41 (SFT) and 2.72 (DPO)."""
CONTEXT = 0.5 * GIB
PYTHON = 0.55 * GIB


def _gpu(
    name: str,
    gib: float,
    flops: float,
    *,
    reached: float = H100_REACHED,
    launch: float = H100_LAUNCH,
    checked: str = "Not checked there: assumed to reach the share of its speed that an H100 "
    "reaches.",
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


_H100_CHECKED = "Fitted to two runs of TRL's trainer there, checked on others (docs/doctor.md)."
_H200_CHECKED = "Fitted to two runs there, checked on two others (docs/doctor.md)."
_GPUS = (
    _gpu("a100-40gb", 39.5, 312e12),
    _gpu("a100-80gb", 79.2, 312e12),
    _gpu("h100-80gb", 79.1, 989e12, checked=_H100_CHECKED),
    _gpu("h200", 139.8, 989e12, reached=H200_REACHED, launch=H200_LAUNCH, checked=_H200_CHECKED),
)
NAMES = (*(device.name for device in _GPUS), "cpu")


def find_device(name: str) -> Device:
    """The device of a name; "cpu" is this machine.

    Raises:
        UsageError: there is none of that name.
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
