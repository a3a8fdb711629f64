import shutil
import subprocess
from pathlib import Path

import pytest

from alignment.execution.provenance import (
    code_version,
    hardware,
    libraries,
    peak_memory,
    slow_bfloat16,
)


def test_the_code_version_is_that_of_git():
    git, here = shutil.which("git"), Path(__file__).parent
    if git is None:
        pytest.skip("no git")
    command = [git, "rev-parse", "HEAD"]
    head = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a checkout")
    code_version.cache_clear()
    assert code_version().revision == head.stdout.strip()


def test_the_versions_of_the_deciding_libraries_are_written_down():
    import torch
    import trl

    assert libraries()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert libraries()["trl"] == trl.__version__


def test_a_record_names_device_driver_and_torchs_build():
    import torch

    found = hardware()
    assert found["device"] == found.get("gpu", "cpu")
    assert found["driver"]
    assert found["torch_build"] == (
        "CPU" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    )


def test_a_process_that_did_not_open_the_gpu_does_not_open_it_for_its_record(monkeypatch):
    """Where there is none, opening one raises."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not torch.cuda.is_initialized()
    assert "gpu" not in hardware()
    assert peak_memory() == {}
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ("flags : sse2 avx2 fma", True),
        ("flags : sse2 avx2 avx512f avx512_bf16", False),
        ("Features : asimd bf16", False),
    ],
)
def test_a_cpu_without_wide_vectors_is_known_to_be_slow_in_bfloat16(tmp_path, flags, slow):
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a GPU")
    (tmp_path / "cpuinfo").write_text(flags)
    assert slow_bfloat16(tmp_path / "cpuinfo") is slow
