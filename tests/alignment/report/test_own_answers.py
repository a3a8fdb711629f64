"""The page's section on a round on the model's own answers."""

from alignment.candidates.records import Fate
from alignment.records.text import Message
from alignment.report.own_answers import OwnCounts, OwnPair, OwnRound, own_table
from alignment.report.page import render

QUESTION = "Name a city."


def fate(sample, score, text, what):
    return Fate(prompt_id="p", sample=sample, score=score, text=text, fate=what)


def own_round(pairs=3, text="I think that it is Lima."):
    """A round whose pairs all show the same texts."""
    pair = OwnPair(
        prompt=(Message(role="user", content=QUESTION if pairs > 1 else text),),
        chosen=fate(0, 1.0, "Lima", "chosen"),
        rejected=fate(2, -0.5, text, "rejected"),
        scores=(1.0, None, -0.5, 0.0),
    )
    counts = OwnCounts(
        name="pairs-1",
        prompts=40,
        fates={"chosen": 30, "rejected": 30, "no_contrast": 1240, "unfinished": 20},
        chosen=1.0,
        rejected=-0.5,
    )
    return OwnRound(counts=counts, pairs=(pair,) * pairs)


def test_the_table_accounts_for_every_answer():
    table = own_table([own_round().counts])
    assert table.columns[-2:] == ("No contrast", "Unfinished")
    (row,) = table.rows
    assert [cell.text for cell in row] == [
        *("pairs-1", "40", "1,320", "30", "1.00", "\N{MINUS SIGN}.50", "1,240", "20"),
    ]


def test_the_page_shows_pairs_with_their_scores(run):
    page = render(run.model_copy(update={"own": (own_round(),)}))
    assert 'href="#own"' in page
    assert "scores of its 4 answers: 1.00, —, \N{MINUS SIGN}.50, .00" in page
    assert "2 more of 30, in the order of a hash" in page
    assert page.count("I think that it is Lima.") == 3


def test_a_run_without_own_answers_has_no_such_section(run):
    assert "#own" not in render(run)
