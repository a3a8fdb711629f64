import pytest

from alignment.errors import TrainingError
from alignment.scoring.budget import Budget


def test_out_of_memory_halves_the_budget_and_says_so(caplog):
    budget = Budget(1000)
    budget.halve([400, 500, 600])
    assert budget.tokens == 500
    assert "out of memory with 1000 tokens per micro-batch; retrying the same rows with 500" in (
        caplog.text
    )


def test_a_row_that_does_not_fit_alone_ends_the_run():
    with pytest.raises(TrainingError, match=r"a single row of up to 600 tokens\. Lower max_length"):
        Budget(500).halve([400, 500, 600])
