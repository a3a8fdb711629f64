import logging

import pytest

from alignment.errors import TrainingError
from alignment.train.budget import CPU_TOKENS, CUDA_TOKENS, Budget, fitting, training_budget

GB = 10**9


def never(tokens):
    raise AssertionError(f"nothing is measured on a CPU, but {tokens} tokens were tried")


def test_tokens_that_fit_lie_on_the_line_through_both_probes():
    """2,048 tokens take 3 GB and 4,096 take 4 GB: 2,048 for each GB more.

    8 GB are 5 GB more than the 3: 2,048 + 5 x 2,048.
    """
    assert fitting([3 * GB, 4 * GB], free=8 * GB) == 6 * 2048


def test_no_more_tokens_than_make_it_faster():
    assert fitting([3 * GB, 4 * GB], free=1000 * GB) == CUDA_TOKENS


def test_a_full_device_still_gets_a_small_budget():
    assert fitting([3 * GB, 4 * GB], free=0) == 512


def test_auto_on_a_cpu_is_a_constant(caplog):
    with caplog.at_level(logging.INFO):
        budget = training_budget("auto", cuda=False, longest=9999, attempt=never, later=0)
    assert budget.tokens == CPU_TOKENS
    assert f"auto is {CPU_TOKENS}" in caplog.text


def test_a_budget_below_the_longest_row_is_warned_about_with_the_numbers(caplog):
    training_budget(512, cuda=False, longest=900, attempt=never, later=0)
    assert "tokens_per_micro_batch is 512, but the longest row has 900 tokens" in caplog.text
    caplog.clear()
    training_budget(900, cuda=False, longest=900, attempt=never, later=0)
    assert not caplog.text


def test_out_of_memory_halves_the_budget_and_says_so(caplog):
    budget = Budget(1000)
    budget.halve([400, 500, 600])
    assert budget.tokens == 500
    assert "out of memory with 1000 tokens in a micro-batch: the same rows again with 500" in (
        caplog.text
    )


def test_a_row_that_does_not_fit_alone_ends_the_run():
    with pytest.raises(TrainingError, match=r"a single row of up to 600 tokens\. Lower max_length"):
        Budget(500).halve([400, 500, 600])
