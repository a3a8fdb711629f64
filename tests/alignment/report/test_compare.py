import pytest

from alignment.evaluate.intervals import PairedDifference
from alignment.records.evaluation import Estimate
from alignment.report import compare


def comparison(value, low, high, p, *, metric="pass_rate", other="control"):
    return compare.Comparison(
        final="round 3",
        other=other,
        metric=metric,
        paired=PairedDifference(
            difference=Estimate(value=value, low=low, high=high, n=240),
            wins=30,
            losses=10,
            ties=200,
            p_value=p,
        ),
    )


@pytest.mark.parametrize(
    ("found", "claim"),
    [
        (
            comparison(0.12, 0.05, 0.19, 0.001),
            "Round 3 beats the control in pass rate by .120 [.050, .190] (p = .001).",
        ),
        (
            comparison(-0.12, -0.19, -0.05, 0.0002, other="base"),
            "Round 3 falls behind the base model in pass rate by .120 [.050, .190] (p < .001).",
        ),
        (
            comparison(0.03, -0.02, 0.07, 0.388, metric="preference_accuracy", other="sft"),
            "No difference shown between round 3 and SFT in preference accuracy: "
            ".030 [\N{MINUS SIGN}.020, .070] (p = .388); 240 rows would show about .064.",
        ),
        (
            comparison(12.5, 9.0, 15.9, 0.01, metric="margin"),
            "Round 3 is higher than the control in margin by 12.5 [9.0, 15.9] (p = .010).",
        ),
    ],
)
def test_a_claim_follows_from_the_numbers(found, claim):
    assert found.claim == claim


@pytest.mark.parametrize(
    "found", [comparison(0.12, 0.05, 0.19, 0.06), comparison(0.12, -0.01, 0.25, 0.01)]
)
def test_nothing_beats_without_both_interval_and_test(found):
    assert found.verdict == "not shown"
    assert found.claim.startswith("No difference shown")


def test_a_comparison_on_a_handful_of_rows_says_that_they_decide_nothing():
    few = comparison(0.4, -0.2, 0.8, 0.5)
    difference = few.paired.difference.model_copy(update={"n": 5})
    paired = few.paired.model_copy(update={"difference": difference})
    assert few.model_copy(update={"paired": paired}).claim.endswith("; n = 5 decides nothing.")


def test_a_higher_margin_is_neither_good_nor_bad():
    assert comparison(12.5, 9.0, 15.9, 0.01, metric="margin").tone == ""
    assert comparison(0.12, 0.05, 0.19, 0.01).tone == "good"


def test_the_final_model_is_compared_with_all_that_are_not_rounds(run):
    found = compare.compare("round 2", generations=run.generations, pairs=run.pairs)
    assert [(c.metric, c.other) for c in found] == [
        (metric, other)
        for metric in ("pass_rate", "preference_accuracy", "margin")
        for other in ("base", "sft", "control")
    ]


def test_differences_are_counted_on_the_same_rows(run):
    """Round 2 passes 34 of 40 prompts, SFT 20, and round 2 passes all that SFT does."""
    found = compare.compare("round 2", generations=run.generations, pairs=run.pairs)
    against_sft = found[1].paired
    assert (against_sft.wins, against_sft.losses, against_sft.ties) == (14, 0, 26)
    assert against_sft.difference.value == pytest.approx(14 / 40)


def test_the_headline_names_what_is_better_worse_and_not_shown():
    found = [
        comparison(0.4, 0.3, 0.5, 0.0, other="base"),
        comparison(0.2, 0.1, 0.3, 0.0, other="sft"),
        comparison(-0.1, -0.2, 0.1, 0.3),
        comparison(9.0, 8.0, 10.0, 0.0, metric="margin"),
    ]
    assert compare.headline(found) == (
        "In pass rate, round 3 is better than the base model and SFT, and not shown to differ "
        "from the control."
    )


def test_without_another_model_the_headline_says_so():
    assert compare.headline(()).startswith("Nothing to compare")


@pytest.mark.parametrize(
    ("labels", "final"),
    [
        (["base", "sft", "round 1", "round 2", "control"], "round 2"),
        (["base", "sft", "control"], "sft"),
        (["control"], "control"),
        ([], None),
    ],
)
def test_the_final_model_is_the_last_round_or_what_comes_nearest(labels, final):
    assert compare.final_model(labels) == final


def test_the_paired_table_has_a_row_per_comparison():
    table = compare.paired_table([comparison(0.12, 0.05, 0.19, 0.001)])
    assert table.title == "Round 3 against the other models, on the same rows"
    assert [cell.plain for cell in table.rows[0]] == [
        "control",
        "Pass rate",
        ".120 [.050, .190]",
        "30 / 10 / 200",
        "p = .001",
        "better",
    ]
