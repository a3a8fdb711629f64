"""Which device a run gets, why it gets no GPU, and the command that mends it.

`device_facts` collects what this machine has; everything else here is text from those facts.
Nothing imports torch: a refusal takes no seconds, and the process that drives a run opens no GPU.
`python -m alignment.execution.device` is a health check: exit code 1 where no GPU can be used.
"""

import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from alignment.config.pipeline import DeviceName, Devices, PipelineConfig
from alignment.errors import DeviceError
from alignment.execution.driver import DriverAnswer, Gpu, ask_driver, kernel_driver, kernel_gpus
from alignment.extras import how_to_install
from alignment.records.base import Frozen

OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""NVIDIA's first driver by CUDA major version; every build for that version runs on it
(https://docs.nvidia.com/deploy/cuda-compatibility)."""
INDEX = {12: "cu126", 13: "cu130"}
"""PyTorch's package index by the CUDA major version of a driver."""
NOT_INSTALLED = "not installed"
"""Version of a torch that is not there."""
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""


class DeviceFacts(Frozen):
    """What this machine offers a training.

    Attributes:
        torch: version of torch, e.g. 2.13.0+cu130.
        torch_cuda: the CUDA version that it is built for; None: a CPU build.
        kernel_driver: version of NVIDIA's driver in the kernel; None: none.
        kernel_gpus: number of GPUs of that driver.
        driver: what the driver answers to this process; None: its library is missing.
        cores: number of CPU cores.
    """

    torch: str
    torch_cuda: str | None
    kernel_driver: str | None = None
    kernel_gpus: int = 0
    driver: DriverAnswer | None = None
    cores: int = 1


class Obstacle(NamedTuple):
    """Why no GPU can be used, and what to do about it."""

    reason: str
    remedy: str


@cache
def device_facts() -> DeviceFacts:
    """The facts about this machine, collected once per process."""
    torch, cuda = _torch_build()
    return DeviceFacts(
        torch=torch,
        torch_cuda=cuda,
        kernel_driver=kernel_driver(),
        kernel_gpus=kernel_gpus(),
        driver=ask_driver(),
        cores=os.cpu_count() or 1,
    )


def _torch_build() -> tuple[str, str | None]:
    """Version of torch and the CUDA version that it is built for, from its version.py."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return NOT_INSTALLED, None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ = '(.+)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b.*= '(.+)'", text, re.MULTILINE)
    return version[1] if version else "unknown", cuda[1] if cuda else None


def obstacle(facts: DeviceFacts) -> Obstacle | None:
    """What keeps this machine from training on a GPU; None if nothing does."""
    found = [each for each in (_of_torch(facts), _of_driver(facts)) if each]
    if not found:
        return None
    reasons, remedies = zip(*found, strict=True)
    return Obstacle(", and ".join(reasons), "; then ".join(remedies))


def _of_torch(facts: DeviceFacts) -> Obstacle | None:
    if facts.torch_cuda is not None:
        return None
    if facts.torch == NOT_INSTALLED:
        return Obstacle("torch is not installed", f"`{how_to_install('train')}`")
    return Obstacle(f"torch {facts.torch} is a CPU build", _install_torch(facts))


def _of_driver(facts: DeviceFacts) -> Obstacle | None:
    driver = facts.driver
    if driver is None:
        return _no_library(facts)
    if facts.torch_cuda is not None and driver.cuda[0] < _major(facts.torch_cuda):
        return _too_old(facts, driver)
    return None if driver.gpus else _no_gpu(facts, driver)


def _install_torch(facts: DeviceFacts) -> str:
    """Install the build that the driver can run; without a driver, the newest."""
    newest = max(INDEX)
    index = INDEX.get(facts.driver.cuda[0] if facts.driver else newest, INDEX[newest])
    version = facts.torch.split("+")[0]
    url = f"https://download.pytorch.org/whl/{index}"
    return (
        f"install a CUDA build: `pip install --force-reinstall --index-url {url} torch=={version}`"
    )


def _no_library(facts: DeviceFacts) -> Obstacle:
    if facts.kernel_driver is not None:
        return Obstacle(
            f"the machine has driver {facts.kernel_driver}, but its library is not in here",
            "start the container with the GPU: `docker run --gpus all ...`",
        )
    return Obstacle("there is no NVIDIA driver", _install_driver(facts))


def _too_old(facts: DeviceFacts, driver: DriverAnswer) -> Obstacle:
    return Obstacle(
        f"{_driver(facts)} is too old: it supports CUDA {_dotted(driver.cuda)}, and torch "
        f"{facts.torch} is built for CUDA {facts.torch_cuda}, which needs driver {_oldest(facts)} "
        "or newer",
        f"{_install_driver(facts)}, or {_install_torch(facts)}",
    )


def _no_gpu(facts: DeviceFacts, driver: DriverAnswer) -> Obstacle:
    if driver.error not in (0, NO_DEVICE):
        return Obstacle(
            f"{_driver(facts)} fails with error {driver.error} (cuInit)",
            "read what `nvidia-smi` says; after an update of the driver, reboot",
        )
    if facts.kernel_gpus:
        return Obstacle(
            f"the GPUs of this machine ({facts.kernel_gpus}) are hidden from this process",
            "`unset CUDA_VISIBLE_DEVICES`, or name one there: `export CUDA_VISIBLE_DEVICES=0`",
        )
    return Obstacle(f"{_driver(facts)} finds no GPU", "look at what `nvidia-smi` lists")


def _install_driver(facts: DeviceFacts) -> str:
    return (
        f"install a driver and reboot (Ubuntu: `sudo apt install nvidia-driver-{_oldest(facts)}`)"
    )


def _oldest(facts: DeviceFacts) -> int:
    newest = max(OLDEST_DRIVER)
    major = _major(facts.torch_cuda) if facts.torch_cuda else newest
    return OLDEST_DRIVER.get(major, OLDEST_DRIVER[newest])


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _driver(facts: DeviceFacts) -> str:
    return f"driver {facts.kernel_driver or 'of unknown version'}"


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# --- what a run says ----------------------------------------------------------------------------


def device_line(facts: DeviceFacts, config: PipelineConfig) -> str:
    """The first line of a run: device, driver, torch, and what the config expects."""
    return f"{machine_line(facts, config.device)} | the config expects {_expected(config)}"


def machine_line(facts: DeviceFacts, wanted: DeviceName = "auto") -> str:
    """Device, driver and torch, for a machine that is looked at without a config."""
    return (
        f"device: {_device(facts, wanted)} | driver: {_driver_and_cuda(facts)} | "
        f"torch: {_torch(facts)}"
    )


def _torch(facts: DeviceFacts) -> str:
    if facts.torch == NOT_INSTALLED:
        return facts.torch
    return f"{facts.torch}, " + (f"CUDA {facts.torch_cuda}" if facts.torch_cuda else "CPU build")


def device_name(facts: DeviceFacts, wanted: DeviceName) -> str:
    """The device that a run will use, in a few words."""
    if wanted == "cpu" or obstacle(facts) is not None or facts.driver is None:
        return f"CPU, {facts.cores} cores"
    return _names(facts.driver.gpus)


def check_device(facts: DeviceFacts, wanted: DeviceName) -> None:
    """Refuse a run that asks for a GPU where none can be used.

    Raises:
        DeviceError: with the reason, and the command that mends it.
    """
    if wanted == "cuda" and (found := obstacle(facts)):
        raise DeviceError(
            f"the config asks for `device: cuda`, and no GPU can be used: {found.reason}. To mend "
            f"it, {found.remedy}. To train on the CPU instead: --set device=cpu"
        )


def devices_to_use(facts: DeviceFacts, device: DeviceName, wanted: Devices) -> int:
    """How many devices a step uses that can use several.

    Raises:
        DeviceError: more than there are. A CPU counts as any number of them.
    """
    if device == "cpu" or obstacle(facts) or facts.driver is None:
        return 1 if wanted == "auto" else wanted
    usable = len(facts.driver.gpus)
    if wanted == "auto":
        return usable
    if wanted > usable:
        raise DeviceError(
            f"the config asks for `devices: {wanted}`, and this process may use {usable}: "
            f"{_names(facts.driver.gpus)}. Set devices={usable}, or auto for all of them"
        )
    return wanted


def _device(facts: DeviceFacts, wanted: DeviceName) -> str:
    name, found = device_name(facts, wanted), obstacle(facts)
    if wanted == "cpu":
        return f"{name} (as configured)"
    return f"{name} (no GPU: {found.reason})" if found else name


def _names(gpus: Sequence[Gpu]) -> str:
    kinds = dict.fromkeys(f"{gpu.name}, {gpu.gib} GiB" for gpu in gpus)
    count = f"{len(gpus)} x " if len(gpus) > 1 else ""
    return count + " and ".join(kinds)


def _driver_and_cuda(facts: DeviceFacts) -> str:
    if facts.driver is None:
        return facts.kernel_driver or "none"
    return f"{facts.kernel_driver or 'version unknown'}, CUDA {_dotted(facts.driver.cuda)}"


def _expected(config: PipelineConfig) -> str:
    wanted = {"cuda": "a GPU", "cpu": "the CPU", "auto": "a GPU if there is one"}[config.device]
    kind = f"{config.quantisation.kind} weights" if config.quantisation else "full weights"
    return f"{wanted}, {kind}, {'bfloat16' if config.dpo.bf16 else 'float32'}"


def main() -> int:
    """Print what this machine has; returns 1 if no GPU can be used."""
    facts = device_facts()
    found = obstacle(facts)
    remedy = f"\nto mend it, {found.remedy}" if found else ""
    sys.stdout.write(f"{machine_line(facts)}{remedy}\n")
    return int(found is not None)


if __name__ == "__main__":
    sys.exit(main())
