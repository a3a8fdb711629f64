import json
from collections import Counter

import pytest

from alignment.data.build.settings import ConversationSetConfig, PairSetConfig
from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import FileSource
from alignment.data.row import Reason
from alignment.data.split import PromptKeys
from alignment.data.verifiers import VerifiablePrompt
from alignment.models.chat_template import render
from alignment.records.text import Conversation, Message, PreferencePair, Quarantined
from tests.alignment.data.build.sets import file, preference, question, rows_of


def test_every_row_is_kept_held_out_or_quarantined(tmp_path, prepare):
    source = file(tmp_path, [question(number) for number in range(200)])
    ref, report, out = prepare(ConversationSetConfig(sources=(source,), held_out_share=0.2))
    train, held = (rows_of(out, name, Conversation) for name in (ref.train, ref.held_out))
    assert (len(train), len(held), ref.quarantined) == (ref.kept, ref.held, {})
    assert {row.id for row in train}.isdisjoint(row.id for row in held)
    assert ref.kept + ref.held == 200
    assert 15 < ref.held < 65  # 40 expected, standard deviation 5.7
    (account,) = report.sources
    assert (account.format, account.reason) == ("instruction", "columns instruction, output")
    assert (account.read, account.kept, account.held_out) == (200, ref.kept, ref.held)
    assert (ref.kind, ref.prompts, ref.prompt_count) == ("conversations", None, 0)
    assert (train[0].task_type, train[0].source) == ("general", "a")


def test_what_is_not_read_is_in_the_report_and_its_notes(tmp_path, prepare):
    rows = [
        preference(n, model="m") if n % 2 else preference(n, system="Be brief.") for n in range(6)
    ]
    _, report, out = prepare(PairSetConfig(sources=(file(tmp_path, rows),), held_out_share=0))
    assert report.sources[0].unread == {"model": 3}
    assert report.notes == (f"{tmp_path / 'a.jsonl'}: not read: model (3)",)
    systems = [row.prompt[0].content for row in rows_of(out, "train.jsonl", PreferencePair)]
    assert systems.count("Be brief.") == 3


def test_reasoning_that_the_template_does_not_render_becomes_text(tmp_path, prepare):
    turns = [
        {"role": "user", "content": "Is 91 prime?"},
        {"role": "assistant", "content": "No.", "reasoning_content": "7 * 13"},
    ]
    config = ConversationSetConfig(
        sources=(file(tmp_path, [{"messages": turns}]),), held_out_share=0
    )
    _, report, out = prepare(config)
    (row,) = rows_of(out, "train.jsonl", Conversation)
    assert row.messages[1].content == "<think>\n7 * 13\n</think>\n\nNo."
    assert report.notes[0].startswith("1 rows have reasoning in a field")


MESSY = {
    "{broken": Reason.malformed,
    '{"prompt": "x", "chosen": true, "rejected": "b"}': Reason.malformed,
    json.dumps(preference(1, chosen="caf\ufffd")): Reason.bad_encoding,
    json.dumps(preference(2, rejected=" ")): Reason.empty,
    json.dumps(
        preference(3, rejected=[{"role": "assistant", "content": "a"}] * 2)
    ): Reason.role_order,
    json.dumps(preference(4, chosen="<|im_end|>")): Reason.special_token,
    json.dumps(preference(5, rejected="yes, it is")): Reason.identical_pair,
    json.dumps(preference(6, score_chosen=3, score_rejected=3)): Reason.tie,
    json.dumps(preference(7, score_chosen=2, score_rejected=3)): Reason.score_inverted,
    json.dumps(preference(8, chosen="x", rejected="y")): Reason.conflicting_label,
    json.dumps(preference(8, chosen="y", rejected="x")): Reason.conflicting_label,
    json.dumps(preference("what " * 200)): Reason.prompt_too_long,
    json.dumps(preference(9, chosen="a " * 400, rejected="a " * 300)): Reason.too_long,
    json.dumps(preference(100)): Reason.duplicate,
}


def test_every_fault_has_its_reason_and_its_line(tmp_path, prepare):
    good = [preference(number) for number in range(100, 110)]
    source = file(tmp_path, [*good, *MESSY])
    config = PairSetConfig(
        sources=(source,),
        held_out_share=0,
        max_malformed_share=0.5,
    )
    ref, report, out = prepare(config, whole=150, prompt=100)
    quarantine = rows_of(out, ref.quarantine, Quarantined)
    assert {row.row: row.reason for row in quarantine} == dict(enumerate(MESSY.values(), start=11))
    assert {row.file for row in quarantine} == {source.path}
    assert ref.kept == 10
    assert ref.quarantined == report.sources[0].dropped == Counter(MESSY.values())
    assert report.sources[0].read == 10 + len(MESSY) == ref.kept + sum(ref.quarantined.values())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_order(tmp_path, prepare):
    source = file(tmp_path, [*(preference(number) for number in range(50)), preference(3)])
    config = PairSetConfig(sources=(source,), held_out_share=0.2)
    first, again, other = (prepare(config, seed=seed)[2] for seed in (1, 1, 2))
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        "held_out.jsonl",
        "prompt_keys.json",
        "quarantine.jsonl",
        "report.json",
        "train.jsonl",
    ]
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert (first / "train.jsonl").read_bytes() != (other / "train.jsonl").read_bytes()


def test_two_replies_to_one_prompt_share_a_split(tmp_path, prepare):
    prompts = [
        f"{case(f'question {number}')}?" for number in range(40) for case in (str, str.upper)
    ]
    rows = [
        {"prompt": prompt, "chosen": f"good {at}", "rejected": "bad"}
        for at, prompt in enumerate(prompts)
    ]
    ref, _, out = prepare(PairSetConfig(sources=(file(tmp_path, rows),), held_out_share=0.5))
    train, held = (
        {row.prompt[0].content.lower() for row in rows_of(out, name, PreferencePair)}
        for name in (ref.train, ref.held_out)
    )
    assert train
    assert held
    assert train.isdisjoint(held)


def test_a_trimmed_prompt_keeps_the_split_of_its_first_turn(tmp_path, prepare, chatml_tokenizer):
    """Two rows of one thread stay together, even if the first turn of one does not fit."""
    threads = [{"role": "user", "content": f"Thread {number:02}"} for number in range(30)]
    rows = []
    for number, start in enumerate(threads):
        more = [{"role": "assistant", "content": "ok"}, {"role": "user", "content": f"n {number}"}]
        rows.append({"prompt": [start], "chosen": f"good {number}", "rejected": "bad"})
        rows.append({"prompt": [start, *more], "chosen": f"good {number}", "rejected": "bad"})
    first = (Message.model_validate(threads[0]),)
    room = len(render(chatml_tokenizer, first, add_generation_prompt=True))
    source = file(tmp_path, rows)
    ref, report, out = prepare(PairSetConfig(sources=(source,), held_out_share=0.5), prompt=room)
    assert report.notes == (f"30 prompts lost their oldest turns (max_prompt_length {room})",)
    assert ref.kept + ref.held == 60
    train, held = (
        {row.chosen[0].content for row in rows_of(out, name, PreferencePair)}
        for name in (ref.train, ref.held_out)
    )
    assert train.isdisjoint(held)
    assert len(train) + len(held) == 30
    keys = PromptKeys.read(out / "prompt_keys.json")
    assert set(keys.trained).isdisjoint(keys.held_out)


def test_replies_that_will_be_truncated_are_reported(tmp_path, prepare):
    row = preference(1, chosen="a b c d " * 60, rejected="z")
    config = PairSetConfig(sources=(file(tmp_path, [row]),), held_out_share=0)
    assert prepare(config, whole=120, prompt=100)[1].notes == (
        "1 replies exceed max_length 120 and will be truncated",
    )


def test_a_conversation_that_is_too_long_is_not_truncated(tmp_path, prepare):
    rows = [question(1), question(2, answer="word " * 400)]
    source = file(tmp_path, rows)
    config = ConversationSetConfig(sources=(source,), held_out_share=0)
    assert prepare(config, whole=100)[0].quarantined == {"too_long": 1}


def test_a_conversation_that_is_too_long_may_lose_its_oldest_turns(
    tmp_path, prepare, chatml_tokenizer
):
    """Room for the system turn and two of four exchanges; a reply that fills it alone goes."""
    system = {"role": "system", "content": "Be brief."}
    exchanges = [
        [
            {"role": "user", "content": f"Question {turn}?"},
            {"role": "assistant", "content": f"Answer {turn}."},
        ]
        for turn in range(4)
    ]
    newest = (Message(**system), *(Message(**turn) for each in exchanges[2:] for turn in each))
    room = len(render(chatml_tokenizer, newest))
    endless = [system, exchanges[0][0], {"role": "assistant", "content": "word " * room}]
    path = tmp_path / "chats.jsonl"
    rows = ([system, *exchanges[0], *exchanges[1], *exchanges[2], *exchanges[3]], endless)
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    config = ConversationSetConfig(
        sources=(FileSource(path=str(path)),),
        held_out_share=0,
        too_long="truncate_oldest_turns",
    )
    ref, report, out = prepare(config, whole=room)
    (kept,) = rows_of(out, ref.train, Conversation)
    assert kept.messages == newest
    assert kept.id == Conversation.of(newest, task_type=kept.task_type, source=kept.source).id
    assert ref.quarantined == {"too_long": 1}
    assert f"1 conversations lost their oldest turns (max_length {room})" in report.notes


def test_keys_do_not_know_a_choice_that_was_not_made(tmp_path):
    config = ConversationSetConfig(sources=(file(tmp_path, [question(1)]),))
    assert "too_long" not in config.model_dump(mode="json")
    chosen = config.model_copy(update={"too_long": "truncate_oldest_turns"})
    assert chosen.model_dump(mode="json")["too_long"] == "truncate_oldest_turns"


def test_changes_that_a_format_makes_to_the_text_are_reported(tmp_path, prepare):
    row = {"question": "How many?", "answer": "2+2 = <<2+2=4>>4\n#### 4"}
    source = file(tmp_path, [row])
    ref, report, out = prepare(ConversationSetConfig(sources=(source,), held_out_share=0))
    assert report.notes == (
        f"{source.path}: calculator annotations such as <<48/2=24>> are removed from the answers",
    )
    assert rows_of(out, ref.train, Conversation)[0].messages[1].content == "2+2 = 4\n#### 4"


# --- the practice set ---------------------------------------------------------------------------


def test_the_practice_set_gives_prompts_that_can_be_verified(prepare):
    config = PairSetConfig(
        sources=(PracticeSource(part="round-1", rows=48), PracticeSource(part="held-out", rows=24)),
        held_out_share=0,
    )
    ref, report, out = prepare(config)
    assert (ref.kept, ref.held, ref.prompt_count, ref.prompts) == (48, 24, 24, "prompts.jsonl")
    assert [account.format for account in report.sources] == ["practice", "practice"]
    held = {row.prompt for row in rows_of(out, ref.held_out, PreferencePair)}
    assert {row.prompt for row in rows_of(out, ref.prompts, VerifiablePrompt)} == held


def test_prompts_are_written_for_held_out_rows(prepare):
    config = ConversationSetConfig(sources=(PracticeSource(rows=96),), held_out_share=0.25)
    ref, _, out = prepare(config)
    assert 0 < ref.held == ref.prompt_count < 60
    held = {row.messages[:2] for row in rows_of(out, ref.held_out, Conversation)}
    assert {row.prompt for row in rows_of(out, ref.prompts, VerifiablePrompt)} == held


# --- real data ----------------------------------------------------------------------------------


REASONS = {
    "empty_chosen": Reason.empty,
    "empty_rejected": Reason.empty,
    "empty_earlier_turn": Reason.empty,
    "prefix_mismatch": Reason.role_order,
    "same_speaker_twice": Reason.role_order,
    "identical_pair": Reason.identical_pair,
    "replacement_or_nul_char": Reason.bad_encoding,
    "score_tie": Reason.tie,
    "role_tag_inside_reply": Reason.turn_marker,
    "template_like_text": Reason.turn_marker,
}
"""The faults listed row by row with the real data, and our reasons for them."""


@pytest.mark.parametrize(
    ("path", "faults"),
    [
        ("hh-rlhf/helpful-base.test.jsonl.gz", (47, 9)),
        ("hh-rlhf/harmless-base.test.jsonl.gz", (45, 12)),
        ("hh-rlhf/helpful-rejection-sampled.test.jsonl.gz", (59, 7)),
        ("ultrafeedback-1k/train_clean.jsonl", (120, 6)),
    ],
)
def test_the_known_faults_of_real_sets_are_found_and_little_else(real_data, prepare, path, faults):
    """A row with two faults is dropped once, for the fault that is checked first."""
    listed = [
        json.loads(line) for line in (real_data / "dirty-index.jsonl").read_text().splitlines()
    ]
    expected: dict[int, set[str]] = {}
    for fault in listed:
        if fault["file"] == path and fault["defect"] in REASONS:
            expected.setdefault(fault["row"] + 1, set()).add(REASONS[fault["defect"]])
    source = FileSource(path=str(real_data / path))
    config = PairSetConfig(sources=(source,))
    ref, report, out = prepare(config, whole=100_000, prompt=50_000)
    found = {row.row: row.reason for row in rows_of(out, ref.quarantine, Quarantined)}
    assert expected.keys() <= found.keys()
    unlisted = {row: reason for row, reason in found.items() if reason not in expected.get(row, ())}
    assert set(unlisted.values()) <= {Reason.turn_marker}  # in earlier turns, which are not listed
    assert (len(expected), len(unlisted)) == faults
    (account,) = report.sources
    assert account.read == account.kept + account.held_out + sum(account.dropped.values())
