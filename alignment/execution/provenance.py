"""What a step ran with: code version, libraries, machine. This goes into every manifest.

Not here: what the step built.
"""

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alignment.execution.device import device_facts
from alignment.records.base import digest_of
from alignment.records.manifest import CodeVersion

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "prefect")


@cache
def code_version() -> CodeVersion:
    """The commit and the digest of uncommitted changes; outside git the package version."""
    here = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (here / ".git").exists():
        return CodeVersion(revision=_version("sft-dpo"))

    def run_git(*arguments: str) -> str:
        run = subprocess.run(
            [git, *arguments], cwd=here, capture_output=True, text=True, check=False
        )
        return run.stdout.strip()

    diff = run_git("diff", "HEAD")
    return CodeVersion(
        revision=run_git("rev-parse", "HEAD") or "no commit yet",
        diff_sha256=digest_of(diff) if diff else None,
    )


@cache
def libraries() -> dict[str, str]:
    """Versions of the libraries that affect results."""
    return {name: _version(name) for name in LIBRARIES}


def hardware() -> dict[str, str]:
    """The machine, the device that this process used, its driver and torch's build.

    Reading the name opens the GPU, whose context then takes memory until the process exits. The
    process that drives a run would hold that memory during every training.
    """
    found = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
    }
    if _on_gpu():
        found["gpu"] = sys.modules["torch"].cuda.get_device_name()
    facts = device_facts()
    return found | {
        "device": found.get("gpu", "cpu"),
        "driver": facts.kernel_driver or "none",
        "torch_build": f"CUDA {facts.torch_cuda}" if facts.torch_cuda else "CPU",
    }


def peak_memory() -> dict[str, float]:
    """Peak GPU memory of this process's tensors, in GiB; empty if it opened no GPU."""
    if not _on_gpu():
        return {}
    from alignment.scoring.gpu_memory import process_peak

    return {"peak_gpu_gib": process_peak().bytes() / 2**30}


def _on_gpu() -> bool:
    """Whether this process has opened a GPU; the check itself does not open one."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def slow_bfloat16(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bfloat16 is slower than float32 here: no GPU, and an x86 CPU without AVX-512.

    Such a CPU multiplies bfloat16 matrices at about a quarter of its float32 speed; one with
    AVX512_BF16 or AMX at about three times its float32 speed. False if unknown.
    """
    if not cpu.is_file() or Path("/proc/driver/nvidia").exists():
        return False
    flags = cpu.read_text(errors="replace")
    return "sse2" in flags and "avx512" not in flags and "amx_bf16" not in flags
