import re

from alignment.evaluate.evaluators import EVALUATORS
from alignment.records.evaluation import Estimate
from alignment.records.refs import ModelRef
from alignment.report import metric, tables
from alignment.report.gate_table import gate_table


def texts(table):
    return [[cell.plain for cell in row] for row in table.rows]


def test_the_evaluation_table_has_a_row_per_model_in_order(run):
    table = tables.evaluation_table(run.evaluations)
    assert [row[0] for row in texts(table)] == ["base", "sft", "round 1", "round 2", "control"]
    labels = [e.label for e in EVALUATORS if e.column and e.label in table.columns]
    assert table.columns == ("Model", *labels)
    assert table.columns[:7] == (
        "Model",
        "Pass rate",
        "Preference acc.",
        "Margin",
        "NLL",
        "KL from base",
        "Reply tokens",
    )


def test_a_cell_is_a_value_with_its_interval(run):
    """SFT passes 20 of 40; Wilson: [.352, .648]. It lowers each rejected reply by 2 nats."""
    sft = texts(tables.evaluation_table(run.evaluations))[1]
    assert sft[1] == ".500 [.352, .648]"
    assert sft[3] == "2.0 [2.0, 2.0]"


def test_the_evaluation_table_fits_a_terminal(run):
    assert max(map(len, tables.evaluation_table(run.evaluations).to_text().splitlines())) <= 120


def test_the_note_states_the_number_of_rows(run):
    note = tables.evaluation_table(run.evaluations).note
    assert re.search(r"Pass rate, Reply tokens[^:]*: n = 40\.", note)
    assert re.search(r"Preference acc\., Margin, NLL, KL from base[^:]*: n = 30\.", note)


def test_a_metric_that_no_model_has_is_left_out_and_a_missing_one_is_a_dash(run):
    base, sft, *_ = run.evaluations
    without = base.model_copy(update={"overall": {"nll": base.overall["nll"]}})
    table = tables.evaluation_table([without])
    assert table.columns == ("Model", "NLL")
    assert texts(tables.evaluation_table([without, sft]))[0][1] == "—"


def test_the_task_table_has_a_column_per_model(run):
    table = tables.task_table(run.evaluations, "pass_rate")
    assert table.columns == ("Task type", "base", "sft", "round 1", "round 2", "control")
    assert [row[0] for row in texts(table)] == ["city", "email", "lower", "number"]
    assert texts(table)[0][2] == ".500 [.237, .763]"


def test_the_gate_table_has_a_row_per_check_and_marks_failed_ones(run):
    table = gate_table(run.verdicts)
    assert texts(table) == [
        ["round 1", "kept", "pass rate rose by 0.200"],
        ["", "", "replies went from 9.0 to 8.0 tokens"],
        ["round 2", "rejected", "pass rate fell by 0.300"],
        ["", "", "replies went from 9.0 to 8.0 tokens"],
    ]
    assert [row[2].tone for row in table.rows] == ["", "", "bad", ""]


def test_the_data_table_names_every_reason_the_largest_first(run):
    assert texts(tables.data_table(run.data)) == [
        ["pairs-1", "1,384", "150", "40", "11", "duplicate 9, tie 2"]
    ]


def test_the_stage_table_shows_what_was_reused(run):
    rows = texts(tables.stage_table(run.records, run.timings))
    assert rows[0] == [
        "sft",
        "sft-0123456789abcdef",
        "1 min 01 s",
        "reused",
        "loss 0.7 · eval loss 0.712",
        "",
    ]
    assert rows[2][3] == "1 min 01 s"
    assert rows[2][5] == "Three prompts were trimmed."


def test_the_stage_table_without_timings_has_no_such_column(run):
    assert "This run" not in tables.stage_table(run.records).columns


def test_the_handover_table_lists_handovers_and_not_the_steps_after_them(run):
    """The DPO step passes on the same merged base; it is not a second merge."""
    assert texts(tables.handover_table(run.records)) == [
        ["merge-sft", "sft", "bfloat16", ".9987", "1.0e-02", "3.4e-05", ".997", "—"]
    ]


def test_a_handover_shows_how_far_the_evaluated_model_is_from_training(run):
    (merge,) = [record for record in run.records if record.stage == "merge"]
    evaluated = merge.model_copy(
        update={
            "stage": "evaluate",
            "parents": {"model": merge.key},
            "metrics": {"kl_from_training": 0.47},
        }
    )
    (row,) = texts(tables.handover_table([merge, evaluated]))
    assert (row[5], row[-1]) == ("3.4e-05", "4.7e-01")


def test_a_stack_is_listed_with_the_adapters_it_carries_and_no_kept_share(run):
    (merge,) = [record for record in run.records if record.stage == "merge"]
    made = ModelRef.model_validate(merge.output)
    assert made.materialised is not None
    stacked = made.model_copy(update={"adapters": made.materialised.deltas, "materialised": None})
    metrics = {"mean_abs_logprob": 0.0, "kl": 0.0, "top1": 1.0}
    stack = merge.model_copy(
        update={
            "name": "stack-sft",
            "stage": "stack",
            "output": stacked.model_dump(mode="json"),
            "metrics": metrics,
        }
    )
    assert texts(tables.handover_table([stack])) == [
        ["stack-sft", "sft", "adapters", "—", "0.0e+00", "0.0e+00", "1.000", "—"]
    ]


def test_numbers_have_fixed_digits_a_real_minus_and_no_negative_zero():
    assert metric.show(0.4286) == ".429"
    assert metric.show(1.0) == "1.000"
    assert metric.show(-0.0667) == "\N{MINUS SIGN}.067"
    assert metric.show(-0.0001) == ".000"
    assert metric.show(0.5, digits=1) == "0.5"
    assert metric.show(float("nan")) == "—"


def test_one_row_shows_no_interval():
    one = Estimate(value=0.5, low=0.5, high=0.5, n=1)
    assert metric.show_interval("pass_rate", one) == ""


def test_seconds_are_written_for_readers():
    assert metric.show_seconds(4.2) == "4.2 s"
    assert metric.show_seconds(185) == "3 min 05 s"
    assert metric.show_seconds(7805) == "2 h 10 min"
