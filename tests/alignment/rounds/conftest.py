import pytest

from tests.alignment.rounds.played import EveryRoundIsKept, changed


@pytest.fixture
def history(tmp_path):
    """A started line with an empty inbox, whose gate keeps every round."""
    made = EveryRoundIsKept(0, tmp_path)
    made.config = changed(made.config, inbox={"promotion": {"name": "gate"}})
    return made
