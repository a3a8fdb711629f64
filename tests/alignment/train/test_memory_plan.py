import logging

import pytest

from alignment.scoring.budget import CPU_TOKENS, CUDA_TOKENS
from alignment.train.memory_plan import PassMemory, Plan, fit_plan, training_plan

GB = 10**9
MEMORY = PassMemory(fixed=2 * GB, recomputed=1e6, kept=5e6)


def plan(tokens="auto", recompute="auto", *, longest=100):
    """The plan on a CPU."""
    return training_plan(tokens, recompute, longest=longest, measure=None)


def gpu_plan(memory, free, tokens, recompute):
    """The plan on a GPU."""
    return fit_plan(tokens, recompute, lambda: (memory, free))


def fitted(memory, free, tokens="auto"):
    found = gpu_plan(memory, free, tokens, "auto")
    return found.tokens, found.recompute


def test_memory_is_the_line_through_the_probes():
    """2,048 tokens take 3 GB and 4,096 take 4 GB: 2 GB fixed, and 1 / 2,048 GB per token.

    Keeping activations, 2,048 take 7 GB: 4 / 2,048 GB more for each.
    """
    found = PassMemory.from_peaks(3 * GB, 4 * GB, 7 * GB)
    assert found.fixed == pytest.approx(2 * GB)
    assert (found.recomputed, found.kept) == pytest.approx((GB / 2048, 5 * GB / 2048))


def test_as_many_tokens_as_fit_at_a_given_share():
    """Half of the layers recompute: 3 MB per token, so 3,333 tokens fit into 12 - 2 GB."""
    assert MEMORY.tokens(12 * GB, 0.5) == 3333
    assert gpu_plan(MEMORY, 12 * GB, "auto", 0.5) == Plan(3333, 0.5)
    assert gpu_plan(MEMORY, 1000 * GB, "auto", 0.5) == Plan(CUDA_TOKENS, 0.5)


def test_as_many_tokens_as_fit_without_recomputing():
    """6,000 tokens with kept activations take 30 GB, plus 2 GB fixed."""
    assert fitted(MEMORY, 32 * GB) == (6000, 0)
    assert fitted(MEMORY, 100 * GB) == (8192, 0)
    assert fitted(MEMORY, 100 * GB, 1000) == (1000, 0)


def test_below_4096_tokens_layers_recompute_before_micro_batches_shrink():
    """4,096 x (5 - 4 share) MB = 12.288 GB at a share of one half."""
    free = 2 * GB + 4096 * 3e6
    assert fitted(MEMORY, free) == (4096, 0.5)


def test_nothing_is_measured_if_both_are_configured():
    def measure():
        raise AssertionError("a measurement takes four passes")

    assert fit_plan(6000, 0.5, measure) == Plan(6000, 0.5)


def test_a_longer_row_recomputes_as_much_as_it_needs():
    """6,000 x (5 - 4 share) MB = 24 GB at a share of a quarter; 4,096 tokens need no share."""
    found = gpu_plan(MEMORY, 26 * GB, 4096, "auto")
    assert (found.share(4096), found.share(6000)) == (0, 0.25)
    assert found.share(26_000) == 1


def test_a_longer_row_recomputes_all_if_nothing_was_measured():
    assert gpu_plan(MEMORY, 26 * GB, 4096, 0.5).share(6000) == plan(512, 0.5).share(6000) == 1


def test_a_full_device_recomputes_everything_and_still_gets_a_small_budget():
    assert fitted(MEMORY, 0) == (512, 1)


def test_without_checkpointing_there_is_nothing_to_choose():
    same = PassMemory(fixed=0, recomputed=1e6, kept=1e6)
    assert fitted(same, 4 * GB) == (4000, 1)


def test_auto_on_a_cpu_is_a_constant(caplog):
    with caplog.at_level(logging.INFO):
        assert plan(longest=9999) == Plan(CPU_TOKENS, 1)
    assert f"tokens_per_micro_batch: auto resolved to {CPU_TOKENS}" in caplog.text
    assert plan(512, "auto") == Plan(512, 1)
    assert plan("auto", 0.25) == Plan(CPU_TOKENS, 0.25)


def test_a_budget_below_the_longest_row_is_warned_about_with_the_numbers(caplog):
    assert plan(512, 1, longest=900) == Plan(512, 1)
    assert "tokens_per_micro_batch is 512, but the longest row has 900 tokens" in caplog.text
    caplog.clear()
    plan(900, 1, longest=900)
    assert not caplog.text
