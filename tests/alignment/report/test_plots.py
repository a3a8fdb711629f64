import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from alignment.records.evaluation import Generation
from alignment.report import plots
from alignment.report.svg import to_svg


def drawn(figure):
    """The texts in a figure, as a reader sees them."""
    texts: list[str] = re.findall(r"<text[^>]*>([^<]*)</text>", to_svg(figure, name="x"))
    return texts


def line_of(axes, number=0):
    """x and y of a line, as numbers."""
    xs, ys = np.asarray(axes.get_lines()[number].get_data(), dtype=float)
    return xs.tolist(), ys.tolist()


def test_pass_rates_set_seen_and_unseen_phrasings_apart(run):
    assert {"seen phrasing", "unseen phrasing"} <= set(
        drawn(plots.model_estimates(run.evaluations, "pass_rate"))
    )


def test_pass_rates_without_unseen_phrasings_are_one_series(run):
    kept = ("pass_rate",)
    plain = [
        report.model_copy(update={"overall": {name: report.overall[name] for name in kept}})
        for report in run.evaluations
    ]
    labels = drawn(plots.model_estimates(plain, "pass_rate"))
    assert "base" in labels
    assert "seen phrasing" not in labels


def test_models_are_read_from_top_to_bottom(run):
    axes = plots.model_estimates(run.evaluations, "preference_accuracy").axes[0]
    low, high = axes.get_ylim()
    assert low > high
    assert axes.get_yticklabels()[0].get_text() == "base"


def test_an_error_bar_ends_at_its_interval(run):
    """The first bar of the first series is the base model's, from low to high."""
    axes = plots.model_estimates(run.evaluations, "preference_accuracy").axes[0]
    (series, _) = axes.containers
    assert isinstance(series, ErrorbarContainer)
    bars = series.lines[2][0].get_segments()
    base = run.evaluations[0].overall["preference_accuracy"]
    assert bars[0][:, 0].tolist() == pytest.approx([base.low, base.high])


def test_training_curves_show_margins_only_where_they_were_logged(run):
    assert len(plots.training_curves(run.histories["dpo-1"]).axes) == 2
    assert len(plots.training_curves([{"step": 1, "loss": 0.5}]).axes) == 1


def test_training_curves_leave_out_what_is_not_a_number():
    rows: list[dict[str, object]] = [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": "?"},
    ]
    assert line_of(plots.training_curves(rows).axes[0]) == ([1.0], [0.5])


def test_a_long_run_is_thinned():
    history = [{"step": step, "loss": 1.0} for step in range(10_000)]
    assert len(line_of(plots.training_curves(history).axes[0])[0]) == 400


def test_the_heat_map_writes_each_share_in_its_cell(run):
    labels = drawn(plots.task_heat_map(run.evaluations, "pass_rate"))
    assert {"city", "email", "lower", "number", "base", "control"} <= set(labels)
    assert labels.count(".500") == 4


def test_lengths_show_the_median(run):
    """Tokens are 3 + row % 5, eight times each of 3 to 7: the median is 5."""
    figure = plots.reply_lengths({"base": run.generations["base"]})
    assert line_of(figure.axes[0], -1)[0] == [5.0]


def test_the_correlation_with_length_is_written_out(run):
    """Margins -length: r = -1. Replies of one length have no correlation to write."""
    pairs = [
        pair.model_copy(update={"chosen": float(-n), "rejected": 0.0, "base_rejected": 0.0})
        for n, pair in enumerate(run.pairs["sft"])
    ]
    by_length = [
        pair.model_copy(update={"base_chosen": 0.0, "chosen_tokens": 9 + n, "rejected_tokens": 9})
        for n, pair in enumerate(pairs)
    ]
    one_length = [pair.model_copy(update={"chosen_tokens": 9}) for pair in by_length]
    label = "chosen \N{MINUS SIGN} rejected, tokens"
    assert plots.margin_by_length(one_length).axes[0].get_xlabel() == label
    assert plots.margin_by_length(by_length).axes[0].get_xlabel() == (
        f"{label}   (r = \N{MINUS SIGN}1.00)"
    )


def test_reliability_shows_the_share_right_at_each_confidence(run):
    report = run.evaluations[3]
    figure = plots.reliability(report.reliability)
    xs, ys = line_of(figure.axes[0], 1)
    assert xs == [one.confidence for one in report.reliability]
    assert ys == [one.right.value for one in report.reliability]
    assert line_of(figure.axes[0])[0] == [0.5, 1.0]


def test_margins_show_the_median_of_every_model(run):
    """From the base model to round 2, the rejected reply lost 9 nats."""
    figure = plots.margins({"round 2": run.pairs["round 2"]})
    assert line_of(figure.axes[0], 2)[0] == [9.0]


def test_a_name_with_dollars_is_not_taken_for_a_formula():
    reply = Generation(
        id="a", task_type="t", source="s", prompt="p", reply="r", tokens=1, stopped=True
    )
    assert "$x^2$" in drawn(plots.reply_lengths({"$x^2$": [reply]}))


def test_a_script_in_a_name_stays_text():
    reply = Generation(
        id="a", task_type="t", source="s", prompt="p", reply="r", tokens=1, stopped=True
    )
    svg = to_svg(plots.reply_lengths({"</text><script>": [reply]}), name="x")
    assert "<script" not in svg
    assert "&lt;/text&gt;&lt;script&gt;" in svg


def test_an_svg_is_well_formed_and_the_same_each_time(run):
    svg = to_svg(plots.model_estimates(run.evaluations, "pass_rate"), name="rates")
    assert ET.fromstring(svg).tag.endswith("svg")
    assert svg == to_svg(plots.model_estimates(run.evaluations, "pass_rate"), name="rates")


def test_an_svg_takes_its_colours_from_the_page(run):
    svg = to_svg(plots.model_estimates(run.evaluations, "pass_rate"), name="rates")
    assert "var(--blue, #0072b2)" in svg
    assert not re.search(r"(?<!, )#0072b2", svg)


def test_ids_of_two_figures_do_not_meet(run):
    first = set(
        re.findall(
            r' id="([^"]*)"', to_svg(plots.model_estimates(run.evaluations, "pass_rate"), name="a")
        )
    )
    second = set(
        re.findall(
            r' id="([^"]*)"', to_svg(plots.model_estimates(run.evaluations, "pass_rate"), name="b")
        )
    )
    assert first
    assert not first & second


def test_every_reference_in_an_svg_has_its_target(run):
    svg = to_svg(plots.margin_by_length(run.pairs["round 2"]), name="m")
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', svg))
    assert used <= set(re.findall(r' id="([^"]*)"', svg))


def test_letters_that_the_drawing_font_lacks_are_left_to_the_browser():
    reply = Generation(
        id="a", task_type="t", source="s", prompt="p", reply="r", tokens=1, stopped=True
    )
    assert "模型" in drawn(plots.reply_lengths({"模型": [reply]}))
