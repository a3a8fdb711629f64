"""Strange files in an inbox: a sample; `fuzz_inbox.py` makes twenty thousand."""

import pytest

from tests.faults.fuzz_inbox import run


@pytest.mark.parametrize("files", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_every_strange_file_is_read_or_has_a_reason(files):
    outcomes, slowest = run(files, seed=files)
    assert outcomes.total() == files
    assert all(outcomes[kind] > files / 20 for kind in ("read", "refused", "skipped"))
    assert slowest < 60
