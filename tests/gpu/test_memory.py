"""On a GPU: the peak memory in a record, and that CPU work does not open the GPU.

make gpu
"""

import subprocess
import sys

import pytest
import torch

from alignment.train.pass_memory import TrialPasses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MIB = 2**20


def test_measuring_a_plan_keeps_the_earlier_peak_in_the_record():
    from alignment.execution.provenance import peak_memory

    held = torch.empty(2048 * MIB, dtype=torch.uint8, device="cuda")
    del held

    def attempt(tokens, share):
        torch.empty(int(tokens * (2 - share)) * 1024, dtype=torch.uint8, device="cuda")

    TrialPasses(attempt, reserved=0).measure()
    assert torch.cuda.max_memory_allocated() < 1024 * MIB
    assert peak_memory()["peak_gpu_gib"] >= 2.0


def test_a_pass_that_only_fits_recomputing_is_still_measured():
    def attempt(tokens, share):
        if share < 1 and tokens > 512:
            raise torch.OutOfMemoryError("too many")
        torch.empty(int(tokens * (4 - 3 * share)) * MIB // 8, dtype=torch.uint8, device="cuda")

    memory, free = TrialPasses(attempt, reserved=0).measure()
    assert (memory.recomputed, memory.kept) == pytest.approx((MIB / 8, MIB / 2), rel=0.1)
    assert free > 0


def test_probes_shrink_until_they_fit():
    def attempt(tokens, share):
        del share
        if tokens > 2048:
            raise torch.OutOfMemoryError("too many")
        torch.empty(tokens * MIB // 8, dtype=torch.uint8, device="cuda")

    memory, free = TrialPasses(attempt, reserved=0).measure()
    assert memory.recomputed == pytest.approx(MIB / 8, rel=0.1)
    assert free > 0


def test_a_process_that_builds_on_the_cpu_opens_no_gpu():
    code = (
        "import torch\n"
        "from alignment.execution.provenance import hardware, peak_memory\n"
        "assert 'gpu' not in hardware() and peak_memory() == {}\n"
        "assert not torch.cuda.is_initialized()\n"
        "torch.ones(1, device='cuda')\n"
        "assert hardware()['gpu'] == torch.cuda.get_device_name() and peak_memory()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
