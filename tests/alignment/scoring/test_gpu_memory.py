"""A stand-in replaces the GPU's allocator here; tests/gpu uses the real one."""

import pytest
import torch

from alignment.scoring.gpu_memory import Peak, process_peak


class Allocator:
    """Counts as CUDA's allocator does: bytes now, and the peak since the last reset."""

    def __init__(self):
        self.now = self.most = 0

    def hold(self, amount):
        self.now = amount
        self.most = max(self.most, amount)

    def reset(self):
        self.most = self.now


@pytest.fixture
def allocator(monkeypatch):
    stood_in = Allocator()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: stood_in.most)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", stood_in.reset)
    return stood_in


def test_a_peak_before_a_measurement_is_not_forgotten(allocator):
    """9 while loading, 4 while measuring, 6 in training: the peak is 9, and later 12."""
    peak = Peak()
    allocator.hold(9)
    allocator.hold(2)
    for _ in range(2):
        peak.reset()
        allocator.hold(4)
        assert torch.cuda.max_memory_allocated() == 4
        allocator.hold(2)
    allocator.hold(6)
    assert peak.bytes() == 9
    allocator.hold(12)
    assert peak.bytes() == 12


def test_a_process_has_one_peak():
    assert process_peak() is process_peak()
