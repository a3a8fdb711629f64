"""A sample of the random lives of `simulate.py`; `make faults` lives ten thousand."""

import pytest

from tests.faults.simulate import run


@pytest.mark.parametrize("first", [0, 25])
def test_fifty_lives_end_in_order(first):
    wrong = [problem for seed in range(first, first + 25) if (problem := run(seed)[1])]
    assert not wrong


def test_a_life_is_its_seed():
    assert run(7) == run(7)
