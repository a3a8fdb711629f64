import pytest

from alignment.records.evaluation import TaskScore
from alignment.report.differences import relatives
from alignment.report.numbers import Numbers
from alignment.report.page import render


def test_the_final_model_is_compared_with_base_sft_and_parent_in_every_metric_and_group(run):
    """Of 40 prompts round 2 passes 34, round 1 26, SFT 20, base 2; a fourth are of each task."""
    numbers = Numbers.model_validate_json(run.numbers.model_dump_json())
    found = {one.other: one for one in numbers.differences}
    assert list(found) == ["base", "sft", "round 1"]
    rates = [one.overall["pass_rate"].value for one in found.values()]
    assert rates == pytest.approx([32 / 40, 14 / 40, 8 / 40])
    assert found["base"].overall.keys() >= {"nll", "repetition", "length_controlled_accuracy"}
    assert found["round 1"].by_task_type["city"]["pass_rate"].value == pytest.approx(2 / 10)
    assert found["round 1"].by_source["practice"]["pass_rate"].n == 40
    page = render(run)
    assert "Round 2 minus the models before it, in every metric" in page


def test_items_of_suites_are_compared_as_well(run):
    def items(passed):
        return tuple(
            TaskScore(
                id=f"s{row}", task_type="sums", source="general", prompt=f"{row}", metric="passed",
                score=float(row < passed),
            )
            for row in range(20)
        )  # fmt: skip

    tasks = {"base": items(15), "round 2": items(5)}
    found = run.model_copy(update={"tasks": tasks}).differences
    assert found[0].other == "base"
    assert found[0].overall["suite_score"].value == -0.5
    assert "suite_score" not in found[1].overall


def test_the_anchor_is_one_of_them_and_a_model_is_not_compared_with_itself(run):
    labels = ["base", "sft", "round 1", "round 2", "round 3", "control"]
    assert relatives("round 3", labels, (), "round 1") == ["base", "sft", "round 1"]
    assert relatives("sft", labels, run.verdicts, "sft") == ["base"]


def test_a_noise_floor_that_was_measured_has_a_column(run):
    assert "Noise floor" not in render(run)
    measured = [one.model_copy(update={"noise": {"reply_tokens": 0.97}}) for one in run.evaluations]
    page = render(run.model_copy(update={"evaluations": tuple(measured)}))
    assert "Noise floor" in page
    assert ">1.0<" in page.replace("\n", "").replace(" ", "")
