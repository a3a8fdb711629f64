"""Asks NVIDIA's driver which GPUs this process may use.

In a process of its own, because a process that has opened the driver must not fork children that
use it. Not here: what the answer means for a run (`device.py`).
"""

import ctypes
import subprocess
import sys
from pathlib import Path

from alignment.processes import python_module
from alignment.records.base import Frozen

LIBRARY = "libcuda.so.1"
NAME_BYTES = 128
TIMEOUT_SECONDS = 30.0
"""A driver takes about a second per GPU where no process keeps it loaded."""


class Gpu(Frozen):
    """A GPU as the driver names it, with its memory in GiB."""

    name: str
    gib: float


class DriverAnswer(Frozen):
    """The driver's answer.

    Attributes:
        cuda: the highest CUDA version that it supports, e.g. (12, 4).
        error: the code of `cuInit`, 0 if it succeeded.
        gpus: what this process may use; `CUDA_VISIBLE_DEVICES` can hide the rest.
    """

    cuda: tuple[int, int]
    error: int
    gpus: tuple[Gpu, ...]


def ask_driver() -> DriverAnswer | None:
    """The driver's answer; None if this machine or container has no driver library."""
    try:
        ctypes.CDLL(LIBRARY)  # loading it does not open the driver
    except OSError:
        return None
    done = subprocess.run(
        python_module(__name__),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    return DriverAnswer.model_validate_json(done.stdout)


def kernel_driver(proc: Path = Path("/proc/driver/nvidia")) -> str | None:
    """Version of the driver in the kernel, which containers see too; None if there is none."""
    try:
        words = (proc / "version").read_text(errors="replace").splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def kernel_gpus(proc: Path = Path("/proc/driver/nvidia")) -> int:
    """Number of GPUs that the kernel's driver has, whoever may use them."""
    return len(list((proc / "gpus").glob("*")))


def _answer() -> DriverAnswer:
    """Open the driver in this process and ask it."""
    library, version, count = ctypes.CDLL(LIBRARY), ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    error = int(library.cuInit(0)) or int(library.cuDeviceGetCount(ctypes.byref(count)))
    return DriverAnswer(
        cuda=(version.value // 1000, version.value % 1000 // 10),
        error=error,
        gpus=tuple(_gpu(library, number) for number in range(count.value)),
    )


def _gpu(library: ctypes.CDLL, number: int) -> Gpu:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(NAME_BYTES)
    library.cuDeviceGet(ctypes.byref(device), number)
    library.cuDeviceGetName(name, NAME_BYTES, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name=name.value.decode(errors="replace"), gib=round(size.value / 2**30, 1))


if __name__ == "__main__":
    sys.stdout.write(_answer().model_dump_json())
