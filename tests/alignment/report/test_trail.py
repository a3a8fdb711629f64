import re
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.settings import AnchoredGate, PlainGate
from alignment.evaluate.verdict import Check, Verdict
from alignment.report import plots
from alignment.report.notes import gate_notes
from alignment.report.page import render
from alignment.report.run_report import RunReport
from alignment.report.trail import JudgedRound, Point, Trail, trail_of
from tests.alignment.report.conftest import replies
from tests.alignment.report.test_plots import drawn, line_of

OPEN = Check(name="pass rate to anchor", finding="inconclusive", words="not shown")
KEPT = Check(name="pass rate", finding="passed", words="pass rate rose")


def judged(label, anchor, check=KEPT):
    verdict = Verdict(candidate=label, champion=anchor, checks=(check,), anchor=anchor)
    rows = [ScoredRows(generations=replies(name)) for name in (label, anchor)]
    return JudgedRound(verdict, *rows)


@pytest.fixture
def trail():
    """SFT passes 20 of 40 prompts, round 1 the same and 6 more, round 2 again 8 more."""
    rounds = [judged("round 1", "sft"), judged("round 2", "sft", OPEN)]
    return trail_of("sft", AnchoredGate(margin=0.05, rounds=5), rounds)


def test_a_point_is_the_difference_to_the_anchor_and_what_its_rows_leave_open(trail):
    first, second = trail.points
    assert (first.difference, second.difference) == pytest.approx((6 / 40, 14 / 40))
    assert (first.differing, first.n, first.metric) == (6, 40, "pass_rate")
    assert first.at_worst < first.difference
    assert (first.kept, second.kept) == (True, False)
    assert trail.error == pytest.approx(0.01)


def test_fewer_errors_allowed_leave_more_open():
    strict = trail_of("sft", AnchoredGate(rounds=500), [judged("round 1", "sft")])
    loose = trail_of("sft", AnchoredGate(rounds=5), [judged("round 1", "sft")])
    assert strict.points[0].at_worst < loose.points[0].at_worst


def test_the_chart_draws_the_margin_and_leaves_a_round_that_was_not_kept_hollow(trail):
    figure = plots.since_anchor(trail)
    texts = drawn(figure)
    assert {"margin", "round", "1", "2", "pass rate", "not kept"} <= set(texts)
    axes = figure.axes[0]
    heights = [line_of(axes, number)[1] for number in range(len(axes.get_lines()))]
    assert [-0.05, -0.05] in heights
    plain = plots.since_anchor(trail.model_copy(update={"margin": None}))
    assert "margin" not in drawn(plain)


def test_an_inconclusive_verdict_says_that_its_rows_decide_nothing_and_how_many_would():
    """Round 1 passes eight of forty prompts fewer than round 2, so far more may be lost."""
    rounds = [judged("round 1", "round 2", OPEN)]
    found = trail_of("round 2", AnchoredGate(margin=0.05, rounds=5), rounds)
    (note,) = [n for n in gate_notes([rounds[0].verdict], found) if "too few" in n]
    assert note.startswith("40 rows are too few to decide on pass rate: round 1 may lie up to .")
    needed = re.search(r"a margin of 0.05 takes about ([\d,]+) rows", note)
    assert needed
    assert int(needed[1].replace(",", "")) > 40


def test_a_round_that_the_plain_gate_kept_on_few_rows_says_what_they_leave_open():
    few = [
        JudgedRound(
            Verdict(candidate="round 1", champion="round 2", checks=(KEPT,)),
            *(ScoredRows(generations=replies(name)[:5]) for name in ("round 1", "round 2")),
        )
    ]
    found = trail_of("round 2", PlainGate(), few)
    (note,) = [n for n in gate_notes([few[0].verdict], found) if "too few" in n]
    assert note.startswith("5 rows are too few to decide on pass rate: round 1 may lie up to .")
    assert "takes about" not in note


def test_the_loss_since_the_anchor_comes_before_all_other_figures(run, trail):
    page = render(run.model_copy(update={"trail": trail}))
    first = page.index("Pass rate since sft")
    assert first < page.index("Each round against sft")
    assert page.index("Each round against sft") < page.index("Pass rate, round 2")
    assert "+.350" in page
    assert "0.05 below is allowed" in page


def test_one_round_has_numbers_and_no_chart(run):
    one = trail_of("sft", AnchoredGate(), [judged("round 2", "sft")])
    page = render(run.model_copy(update={"trail": one}))
    assert "Pass rate since sft" in page
    assert "Each round against" not in page


def test_the_numbers_are_stored_with_the_trail(run, trail):
    report = run.model_copy(update={"trail": trail})
    again = type(report.numbers).model_validate_json(report.numbers.model_dump_json())
    assert again == report.numbers
    assert again.trail == trail
    assert again.outcomes == {"round 1": "kept", "round 2": "rejected"}


def test_a_chart_that_would_show_nothing_is_left_out(run):
    """One model, one reply, one pair, one task type, one step."""
    one = RunReport(
        title="one",
        created="today",
        command="sft-dpo run",
        evaluations=run.evaluations[:1],
        generations={"base": run.generations["base"][:1]},
        pairs={"base": run.pairs["base"][:1]},
        histories={"sft": run.histories["sft"][:1]},
    )
    assert "<svg" not in render(one).replace(_heat_map(render(one)), "")
    assert "<svg" in render(run)


def _heat_map(page):
    """The section by task type: the one model has several."""
    return page[page.index('id="tasks"') : page.index('id="replies"')]


@pytest.mark.parametrize("names", ["round {}", "after night {}"])
def test_nothing_in_the_chart_of_twelve_rounds_overlaps_or_is_cut_off(names):
    """Drawn as on the page, with two metrics that have rounds of both kinds."""
    labels = [names.format(number) for number in range(1, 13)]
    points = [
        Point(
            round=label, metric=metric, difference=-0.01, at_worst=-0.05, n=300, differing=20,
            kept=number % 3 == 0,
        )
        for metric in ("pass_rate", "preference_accuracy")
        for number, label in enumerate(labels)
    ]  # fmt: skip
    trail = Trail(
        anchor="round 30", margin=0.03, error=0.01, rounds=tuple(labels), points=tuple(points)
    )
    figure = plots.since_anchor(trail)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    names_below = [text.get_window_extent() for text in axes.get_xticklabels() if text.get_text()]
    assert len(names_below) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(names_below))
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x1 < figure.bbox.x1
