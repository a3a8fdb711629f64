"""The template, the stop token, lengths and training targets."""

import copy
import datetime
from dataclasses import replace

from alignment.doctor.checks.lengths import check_lengths, check_trimmed, counted, quantile, useless
from alignment.doctor.checks.template import (
    check_prefix,
    check_stop,
    check_supervised,
    check_template,
)
from alignment.doctor.finding import Histogram
from alignment.doctor.tokens import encode_pairs
from alignment.models.chat_template import end_of_turn_id
from tests.alignment.doctor.conftest import chat, dropped, pair
from tests.chats import with_template

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_a_usable_template_is_described_by_its_markers(chatml_tokenizer):
    found = check_template(chatml_tokenizer)
    assert found.verdict == "ok"
    assert "'<|im_start|>assistant\\n'" in found.headline
    assert "also the padding" in found.headline


def test_the_date_that_a_template_says_is_told(chatml_tokenizer):
    day = datetime.date(2025, 3, 9)
    assert "in this run always 2025-03-09" in check_template(chatml_tokenizer, date=day).headline
    assert "date" not in check_template(chatml_tokenizer).headline


def test_a_template_without_stop_or_opening_fails_with_a_remedy(chatml_tokenizer):
    broken = copy.deepcopy(chatml_tokenizer)
    broken.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    found = check_template(broken)
    assert found.verdict == "fail"
    assert found.remedy.startswith("Use another template")
    broken.chat_template = None
    assert "no chat template" in check_template(broken).headline


def test_a_thought_that_only_the_generation_prompt_opens_is_named(chatml_tokenizer, pair_set):
    rows = [pair("What is two and two?", "Four.", "Five.")]
    assert check_prefix([pair_set(rows)]).verdict == "ok"
    thinks = with_template(chatml_tokenizer, THINKS)
    made = replace(pair_set(rows), pairs=encode_pairs(thinks, rows))
    found = check_prefix([made])
    assert found.verdict == "warn"
    assert found.figures == {"chats": 2, "broken": 2}
    assert "template: {name: trl}" in found.remedy


def test_a_truncated_reply_has_no_stop_token(chatml_tokenizer, pair_set, chat_set):
    stop = end_of_turn_id(chatml_tokenizer)
    short = [pair(f"Question {n}", "Yes.", "No.") for n in range(24)]
    long_reply = pair("Question", "Yes. " * 60, "No.")
    limit = 100
    assert check_stop([pair_set(short, whole=limit)], stop=stop).verdict == "ok"
    one = check_stop([pair_set([*short, long_reply], whole=limit)], stop=stop)
    assert (one.verdict, one.figures["without_stop"]) == ("warn", 1)  # 1 of 50 replies
    assert check_stop([pair_set([long_reply] * 2, whole=limit)], stop=stop).verdict == "fail"
    cut_chat = chat_set([chat("Question", "Yes. " * 60)], whole=limit)
    assert check_stop([cut_chat], stop=stop).verdict == "fail"


def test_the_trained_part_of_a_row_is_the_reply_with_its_stop_token(chatml_tokenizer, chat_set):
    found = check_supervised([chat_set([chat("Why?", "Because.")])], chatml_tokenizer)
    trained = [piece.text for piece in found.examples[0].pieces if piece.trained]
    assert trained == ["Because.<|im_end|>"]
    assert "".join(p.text for p in found.examples[0].pieces).endswith("<|im_end|>")
    assert found.verdict == "ok"


def test_long_prompts_with_short_replies_warn(chatml_tokenizer, pair_set):
    found = check_supervised([pair_set([pair("Why? " * 200, "So.", "No.")])], chatml_tokenizer)
    assert found.verdict == "warn"
    assert found.figures["pairs-1"] < 0.1
    assert "shorten them with max_prompt_length" in found.remedy


def test_no_limit_of_prompts_is_advised_for_conversations_which_have_none(
    chatml_tokenizer, chat_set
):
    found = check_supervised([chat_set([chat("Why? " * 200, "So.")])], chatml_tokenizer)
    assert found.verdict == "warn"
    assert "max_prompt_length" not in found.remedy


def test_lengths_count_truncated_and_dropped_rows(pair_set):
    rows = [pair(f"Question {n}", "Yes.", "No.") for n in range(97)]
    cut = pair("Question", "Yes. " * 60, "No.")
    assert check_lengths([pair_set(rows, whole=100)]).verdict == "ok"
    some = check_lengths([pair_set([*rows, cut], whole=100, quarantined=dropped(too_long=2))])
    assert some.verdict == "warn"
    assert some.figures["pairs-1"] == 3 / 100  # one truncated, two dropped, of 100
    many = check_lengths([pair_set(rows, whole=100, quarantined=dropped(prompt_too_long=97))])
    assert many.verdict == "fail"


def test_the_histogram_counts_every_row_once_and_marks_the_limit(pair_set):
    rows = [pair(f"Question {n}", "Yes. " * (n + 1), "No.") for n in range(10)]
    (chart,) = check_lengths([pair_set(rows, whole=80, prompt=60)]).charts
    assert isinstance(chart, Histogram)
    assert {name: sum(bins) for name, bins in chart.counts.items()} == {
        "prompt": 10,
        "prompt and longer reply": 10,
    }
    assert chart.marks == {"max_length": 80, "max_prompt_length": 60}


def test_bins_hold_their_lower_edge_and_the_last_its_upper_too():
    assert counted([0, 1, 2, 3, 4], [0, 2, 4]) == (2, 3)
    assert quantile([5, 1, 3], 0.5) == 3
    assert quantile([], 0.5) == 0


def test_pairs_that_were_trimmed_away_are_counted_by_the_runs_lengths(pair_set):
    rows = [pair(f"Question {n}", "Yes.", "No.") for n in range(90)]
    for lost, verdict in ((1, "ok"), (10, "warn"), (90, "fail")):
        found = check_trimmed([pair_set(rows, quarantined=dropped(too_long=lost))])
        assert (found.verdict, found.figures["left_out"]) == (verdict, lost)


def test_a_pair_is_useless_if_truncation_leaves_no_reply_or_two_equal_ones(chatml_tokenizer):
    start = "The answer is "
    (made,) = encode_pairs(chatml_tokenizer, [pair("Why?", f"{start}yes.", f"{start}no.")])
    prompt = made.prompt
    common = next(
        at for at, ids in enumerate(zip(made.chosen.ids, made.rejected.ids, strict=False))
        if ids[0] != ids[1]
    )  # fmt: skip
    assert prompt < common
    assert useless(made, prompt)
    assert useless(made, common)
    assert not useless(made, common + 1)
