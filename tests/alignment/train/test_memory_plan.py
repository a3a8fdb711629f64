import logging
import math
from dataclasses import dataclass, field

import pytest

from alignment.scoring.budget import CPU_TOKENS, CUDA_TOKENS
from alignment.train.memory_plan import Plan, Work, fit_plan, training_plan
from alignment.train.pass_memory import PassMemory, PassPeak

GB = 10**9
MEMORY = PassMemory(fixed=2 * GB, recomputed=1e6, kept=5e6)
WORK = Work([[600] * 16])
"""9,600 tokens a step; 9,728 and 4,864 are the smallest limits with one and two micro-batches."""


def plan(tokens="auto", recompute="auto", *, longest=100):
    """The plan on a CPU."""
    return training_plan(tokens, recompute, longest=longest, work=WORK, trials=None)


@dataclass
class Card:
    """A GPU whose small passes foretell `memory`, and whose passes of a plan's size take `true`."""

    memory: PassMemory
    free: float
    true: PassMemory | None = None
    limit: float = math.inf
    tried: list[int] = field(default_factory=list)

    def measure(self):
        return self.memory, self.free

    def peak(self, tokens, share):
        self.tried.append(tokens)
        found = (self.true or self.memory).bytes(tokens, share)
        return PassPeak(tokens, found if found <= self.limit else math.inf)


def gpu_plan(memory, free, tokens="auto", recompute="auto", work=WORK):
    """The plan on a GPU."""
    return fit_plan(tokens, recompute, work, Card(memory, free))


def fitted(memory, free, tokens="auto", work=WORK):
    found = gpu_plan(memory, free, tokens, work=work)
    return found.tokens, round(found.recompute, 2)


def test_memory_is_the_line_through_the_probes():
    """2,048 tokens take 3 GB and 4,096 take 4 GB: 2 GB fixed, and 1 / 2,048 GB per token.

    Keeping activations, 1,024 take 7 GB: 5 GB beyond what is fixed.
    """
    found = PassMemory.of(PassPeak(2048, 3 * GB), PassPeak(4096, 4 * GB), PassPeak(1024, 7 * GB))
    assert found.fixed == pytest.approx(2 * GB)
    assert (found.recomputed, found.kept) == pytest.approx((GB / 2048, 5 * GB / 1024))


def test_if_no_pass_fits_without_recomputing_all_layers_recompute():
    """10 GB hold 8,000 tokens; the next multiple of 256 is 7,936."""
    found = PassMemory.of(
        PassPeak(2048, 4.048 * GB), PassPeak(4096, 6.096 * GB), PassPeak(512, math.inf)
    )
    assert fitted(found, 10 * GB) == (7936, 1)


def test_as_many_tokens_as_fit_at_a_given_share():
    """Half of the layers recompute: 3 MB per token, so 3,333 tokens fit into 12 - 2 GB."""
    assert MEMORY.tokens(12 * GB, 0.5) == 3333
    assert gpu_plan(MEMORY, 12 * GB, "auto", 0.5) == Plan(3333, 0.5)
    assert gpu_plan(MEMORY, 1000 * GB, "auto", 0.5) == Plan(CUDA_TOKENS, 0.5)


def test_a_whole_step_at_once_if_it_fits_without_recomputing():
    assert fitted(MEMORY, 100 * GB) == (CUDA_TOKENS, 0)
    assert fitted(MEMORY, 51 * GB) == (9728, 0)
    assert fitted(MEMORY, 100 * GB, 1000) == (1000, 0)


def test_two_micro_batches_cost_less_than_recomputing_half_of_the_layers():
    """Into 32 GB fit 6,000 tokens if no layer recomputes, or 9,728 if .48 of them do."""
    assert fitted(MEMORY, 32 * GB) == (5888, 0)


def test_recomputing_all_layers_costs_less_than_many_micro_batches():
    """Into 12 GB fit 9,728 tokens if .99 of the layers recompute, or 2,000 if none does."""
    assert fitted(MEMORY, 12 * GB) == (9728, 0.99)


def test_with_a_reference_recomputing_costs_a_smaller_share_of_a_step():
    assert fitted(MEMORY, 14 * GB) == (2560, 0.08)
    assert fitted(MEMORY, 14 * GB, work=Work(WORK.steps, passes=3)) == (9728, 0.94)


def test_layers_that_are_not_compiled_cost_more_overhead():
    assert fitted(MEMORY, 14 * GB, work=Work(WORK.steps, compiled=False)) == (9728, 0.94)


def test_the_steps_are_a_sample_of_the_rows():
    work = Work.of([100, 200, 300], 2, passes=2, compiled=True)
    assert sorted(size for step in work.steps for size in step) == [100, 200, 300]
    assert [len(step) for step in work.steps] == [2, 1]


def test_nothing_is_measured_if_both_are_configured():
    card = Card(MEMORY, 26 * GB)
    assert fit_plan(6000, 0.5, WORK, card) == Plan(6000, 0.5)
    assert card.tried == []


@pytest.mark.parametrize("error", [0.8, 0.98, 1.0, 1.02, 1.2])
def test_a_plan_follows_from_a_pass_of_its_own_size(error):
    """Small passes foretell large ones wrongly; the plan is the one that knows the truth."""
    true = PassMemory(2 * GB, error * MEMORY.recomputed, error * MEMORY.kept)
    card = Card(MEMORY, 24 * GB, true)
    found = fit_plan("auto", "auto", WORK, card)
    assert found.same(gpu_plan(true, 24 * GB), tolerance=0.05)
    assert true.bytes(found.tokens, found.recompute) <= 24.001 * GB
    assert len(card.tried) <= 4


def test_a_plan_that_runs_out_of_memory_when_tried_is_not_used():
    """Plans may use 24 GB by the forecast, but passes of more than 20 GB fail."""
    card = Card(MEMORY, 24 * GB, limit=20 * GB)
    found = fit_plan("auto", "auto", WORK, card)
    assert MEMORY.bytes(found.tokens, found.recompute) <= 20 * GB
    assert len(card.tried) > 1


def test_a_longer_row_recomputes_as_much_as_it_needs():
    """6,000 x (5 - 4 share) MB = 24 GB at a share of a quarter; 4,096 tokens need no share."""
    found = gpu_plan(MEMORY, 26 * GB, 4096)
    assert (found.share(4096), found.share(6000)) == (0, 0.25)
    assert found.share(26_000) == 1


def test_a_longer_row_recomputes_all_if_nothing_was_measured():
    assert gpu_plan(MEMORY, 26 * GB, 4096, 0.5).share(6000) == plan(512, 0.5).share(6000) == 1


def test_a_full_device_recomputes_everything_and_still_gets_a_small_budget():
    assert fitted(MEMORY, 0) == (512, 1)


def test_without_checkpointing_there_is_nothing_to_choose_but_the_tokens():
    same = PassMemory(fixed=0, recomputed=1e6, kept=1e6)
    assert fitted(same, 5 * GB) == (4864, 1)


def test_rows_longer_than_any_micro_batch_keep_what_fits():
    """7,680 tokens x (5 - 4 share) MB = 24 GB at a share of .47, whatever the limit is."""
    long = Work([[7680] * 4])
    found = gpu_plan(MEMORY, 26 * GB, work=long)
    assert found.share(7680) == pytest.approx(0.469, abs=0.001)


def test_out_of_memory_leads_to_a_plan_for_less_of_it():
    first = gpu_plan(MEMORY, 32 * GB)
    plans = [first]
    while (found := plans[-1].smaller()) is not None:
        plans.append(found)
    taken = [MEMORY.bytes(found.tokens, found.recompute) for found in plans]
    assert taken == sorted(taken, reverse=True)
    assert 3 < len(plans) < 40
    assert (plans[-1].tokens, plans[-1].recompute) == (512, 1)


def test_a_configured_plan_has_no_smaller_one():
    assert Plan(6000, 0.5).smaller() is None


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
