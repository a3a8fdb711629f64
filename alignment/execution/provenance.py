"""Where a step ran and with what: code, libraries, machine.

Goes into every manifest. Not here: what was built.
"""

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alignment.records import CodeVersion, digest_of

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "prefect")


@cache
def code_version() -> CodeVersion:
    """The commit of this code and the digest of what differs from it; the version outside git."""
    here = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (here / ".git").exists():
        return CodeVersion(revision=_version("sft-dpo"))

    def ask(*words: str) -> str:
        run = subprocess.run([git, *words], cwd=here, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    diff = ask("diff", "HEAD")
    return CodeVersion(
        revision=ask("rev-parse", "HEAD") or "no commit yet",
        diff_sha256=digest_of(diff) if diff else None,
    )


@cache
def libraries() -> dict[str, str]:
    """Versions of the libraries that decide a result."""
    return {name: _version(name) for name in LIBRARIES}


def hardware() -> dict[str, str]:
    """What the machine is, and its GPU where this process computes on it.

    Asking for its name opens the GPU, and what that takes stays until the process ends: the one
    that conducts a run would hold it beside every training.
    """
    found = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
    }
    if _on_gpu():
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def peak_memory() -> dict[str, float]:
    """Most GPU memory this process held in tensors, GiB; nothing where it opened no GPU."""
    if not _on_gpu():
        return {}
    from alignment.scoring.gpu_memory import process_peak

    return {"peak_gpu_gib": process_peak().bytes() / 2**30}


def _on_gpu() -> bool:
    """Whether this process has opened a GPU; told without opening one."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def slow_bfloat16(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bfloat16 is slower than float32 here: no GPU, and an x86 CPU without AVX-512.

    Such a CPU multiplies bfloat16 matrices at about a quarter of its float32 rate; one with
    AVX512_BF16 or AMX at about three times that rate. False where it cannot be told.
    """
    if not cpu.is_file() or Path("/proc/driver/nvidia").exists():
        return False
    flags = cpu.read_text(errors="replace")
    return "sse2" in flags and "avx512" not in flags and "amx_bf16" not in flags
