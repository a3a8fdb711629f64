from collections import Counter
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from alignment.data.formats import (
    FALLBACK,
    HH,
    KNOWN,
    Auto,
    Format,
    GradedSolutions,
    Gsm8k,
    Instruction,
    Messages,
    Preference,
    choose_format,
    chosen_conversation,
)
from alignment.data.formats.rows import RawRow
from alignment.data.formats.table import formats_table, with_table
from alignment.data.read.reading import read_any, read_conversations, read_pairs
from alignment.data.read.sources import FileSource
from alignment.data.row import Reason, Rejected, Row
from alignment.errors import DataError
from alignment.records.text import Conversation, Quarantined

ROOT = Path(__file__).parents[4]


def parse(format_, **fields):
    (record,) = format_.parse(RawRow("a.jsonl", 1, fields, "chat", "test"))
    return record


def rejection(format_, **fields):
    with pytest.raises(Rejected) as rejected:
        parse(format_, **fields)
    return rejected.value.reason, rejected.value.detail


def contents(messages):
    return [(message.role, message.content) for message in messages]


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


# --- messages -----------------------------------------------------------------------------------


def test_messages_are_unchanged_except_for_white_space_at_the_ends():
    record = parse(Messages(), messages=chat(("user", "Hi\n"), ("assistant", " Hello\n  there ")))
    assert contents(record.messages) == [("user", "Hi"), ("assistant", "Hello\n  there")]
    assert (record.task_type, record.source) == ("chat", "test")
    assert record == Conversation.of(record.messages, task_type="chat", source="test")


def test_a_system_turn_without_text_is_dropped():
    record = parse(Messages(), messages=chat(("system", " "), ("user", "Hi"), ("assistant", "Ho")))
    assert contents(record.messages) == [("user", "Hi"), ("assistant", "Ho")]


@pytest.mark.parametrize(
    ("messages", "reason", "detail"),
    [
        ("Hi", Reason.malformed, "column 'messages' holds a str, not a list"),
        (None, Reason.malformed, "column 'messages' holds nothing, not a list"),
        (["Hi"], Reason.malformed, "messages[0] holds a str, not {role, content}"),
        ([{"role": "user"}], Reason.malformed, "messages[0]: content holds nothing, not text"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "a"}]}],
            Reason.malformed,
            "messages[0]: content[0]: a part of type 'image', not text",
        ),
        (
            chat(("user", "a"), ("critic", "b")),
            Reason.role_order,
            "messages[1]: role 'critic' is none of system, user, assistant, tool",
        ),
        (
            [{"from": None, "value": "a"}],
            Reason.malformed,
            "messages[0]: from 'None' is none of system, user, assistant, tool",
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}],
            Reason.malformed,
            "messages[0]: a tool call needs a name and its arguments",
        ),
    ],
)
def test_what_is_not_a_chat_is_rejected_with_its_location(messages, reason, detail):
    assert rejection(Messages(), messages=messages) == (reason, detail)


# --- preference ---------------------------------------------------------------------------------


def test_texts_become_one_turn_each():
    pair = parse(Preference(), prompt="Why?", chosen=" Because.", rejected="No.")
    assert contents(pair.prompt) == [("user", "Why?")]
    assert contents(pair.chosen) == [("assistant", "Because.")]
    assert contents(pair.rejected) == [("assistant", "No.")]
    assert pair.strength is None


def test_prompt_and_replies_may_be_lists():
    prompt = chat(("system", "Be brief."), ("user", "Why?"))
    pair = parse(Preference(), prompt=prompt, chosen=chat(("assistant", "So.")), rejected="No.")
    assert contents(pair.prompt) == [("system", "Be brief."), ("user", "Why?")]
    assert contents(pair.chosen) == [("assistant", "So.")]


@pytest.mark.parametrize("columns", [{}, {"prompt": "Second?"}])
def test_whole_chats_are_split_where_they_diverge(columns):
    """Both begin user, assistant, user; a prompt column next to whole chats is ignored."""
    start = (("user", "First?"), ("assistant", "One."), ("user", "Second?"))
    pair = parse(
        Preference(),
        chosen=chat(*start, ("assistant", "Good.")),
        rejected=chat(*start, ("assistant", "Bad.")),
        **columns,
    )
    assert contents(pair.prompt) == list(start)
    assert (contents(pair.chosen), contents(pair.rejected)) == (
        [("assistant", "Good.")],
        [("assistant", "Bad.")],
    )


def test_two_equal_chats_keep_their_last_turn_as_reply():
    same = chat(("user", "Why?"), ("assistant", "So."))
    pair = parse(Preference(), chosen=same, rejected=same)
    assert contents(pair.prompt) == [("user", "Why?")]
    assert pair.chosen == pair.rejected


@pytest.mark.parametrize("nested", [False, True])
def test_scores_become_a_strength(nested):
    """(9 - 7.5) / 10 = 0.15, in the row or under metadata as in UltraFeedback."""
    scores = {"score_chosen": 9, "score_rejected": 7.5}
    columns = {"metadata": scores} if nested else scores
    pair = parse(Preference(), prompt="a", chosen="b", rejected="c", **columns)
    assert pair.strength == pytest.approx(0.15)
    wide = parse(Preference(score_scale=1), prompt="a", chosen="b", rejected="c", **columns)
    assert wide.strength == 1


def test_a_chosen_reply_that_scores_lower_is_rejected():
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 2, "score_rejected": 3.5}
    assert rejection(Preference(), **row) == (
        Reason.score_inverted,
        "chosen scores 1.5 below rejected",
    )


@pytest.mark.parametrize("score", ["nine", True, float("nan")])
def test_a_score_that_is_not_a_number_is_rejected(score):
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": score}
    reason, detail = rejection(Preference(), **row, score_rejected=1)
    assert (reason, detail) == (Reason.malformed, f"score {str(score)!r} is not a number")


def test_a_reply_that_is_not_text_is_rejected():
    assert rejection(Preference(), prompt="a", chosen=True, rejected="c") == (
        Reason.malformed,
        "column 'chosen' holds a bool, not text",
    )


# --- HH -----------------------------------------------------------------------------------------


def hh(*turns: str) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[at % 2]}: {text}" for at, text in enumerate(turns))


def test_a_transcript_is_split_into_turns_and_at_the_common_prefix():
    pair = parse(HH(), chosen=hh("a", "b", "c", "good"), rejected=hh("a", "b", "c", "bad"))
    assert contents(pair.prompt) == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert contents(pair.chosen) == [("assistant", "good")]
    assert contents(pair.rejected) == [("assistant", "bad")]


def test_the_common_prefix_is_of_messages_not_of_characters():
    """Both replies begin with "The answer", which is not part of the prompt."""
    pair = parse(HH(), chosen=hh("a", "The answer is 4"), rejected=hh("a", "The answer is 5"))
    assert contents(pair.chosen) == [("assistant", "The answer is 4")]


def test_a_marker_without_a_blank_line_is_text():
    reply = "Try this.\nHuman: hello\nAssistant: hi. Human: bye"
    pair = parse(HH(), chosen=hh("a", reply), rejected=hh("a", "no"))
    assert contents(pair.chosen) == [("assistant", reply)]


def test_a_second_assistant_marker_makes_a_reply_of_two_turns():
    """`content.role_order` then drops it; guessing where the prompt ends would be worse."""
    pair = parse(HH(), chosen=hh("a", "b") + "\n\nAssistant: more", rejected=hh("a", "c"))
    assert contents(pair.chosen) == [("assistant", "b"), ("assistant", "more")]
    assert contents(pair.rejected) == [("assistant", "c")]


def test_an_empty_reply_is_an_empty_turn():
    pair = parse(HH(), chosen=hh("a", ""), rejected=hh("a", "c"))
    assert contents(pair.chosen) == [("assistant", "")]


def test_text_without_markers_is_rejected():
    reason, detail = rejection(HH(), chosen="Hello", rejected=hh("a", "b"))
    assert (reason, detail) == (Reason.malformed, "chosen does not open with 'Human:'")
    assert rejection(HH(), chosen="Hi" + hh("a", "b"), rejected="")[0] == Reason.malformed


# --- instruction, GSM8K, graded solutions -------------------------------------------------------


def test_the_input_is_placed_below_the_instruction():
    record = parse(Instruction(), instruction="Add.", input="1 2", output="3")
    assert contents(record.messages) == [("user", "Add.\n\n1 2"), ("assistant", "3")]
    for empty in ({"input": ""}, {"input": None}, {}):
        record = parse(Instruction(), instruction="Add.", output="3", **empty)
        assert contents(record.messages) == [("user", "Add."), ("assistant", "3")]


def test_instruction_reads_columns_of_other_names():
    answers = Instruction(instruction="question", output="answer")
    assert contents(parse(answers, question="q", answer="a").messages) == [
        ("user", "q"),
        ("assistant", "a"),
    ]
    reason, detail = rejection(answers, instruction="q", output="a")
    assert (reason, detail) == (Reason.malformed, "column 'question' holds nothing, not text")


def test_calculator_annotations_are_removed_and_reported():
    answer = "She sold 48/2 = <<48/2=24>>24 clips, 3 << 4.\n#### 24"
    record = parse(Gsm8k(), question="How many?", answer=answer)
    assert record.messages[1].content == "She sold 48/2 = 24 clips, 3 << 4.\n#### 24"
    assert "are removed" in Gsm8k.note


def graded(**solutions):
    columns = {
        name: {"is_correct": verdict, "solution": text}
        for name, (verdict, text) in solutions.items()
    }
    return {"question": "How many?", "ground_truth": "4", **columns}


def test_the_right_and_the_wrong_solution_closest_in_length_make_the_pair():
    """Lengths: right 10 and 4, wrong 5 and 20; the closest two are 4 and 5."""
    row = graded(
        a=(True, "r" * 10), b=(False, "w" * 20), c=(True, "r" * 4), d=(False, "<<1=1>>" + "w" * 5)
    )
    pair = parse(GradedSolutions(), **row)
    assert contents(pair.prompt) == [("user", "How many?")]
    assert (contents(pair.chosen), contents(pair.rejected)) == (
        [("assistant", "rrrr")],
        [("assistant", "wwwww")],
    )


def test_the_choice_does_not_depend_on_the_order_of_columns():
    row = graded(a=(True, "one"), b=(False, "two"), c=(True, "six"), d=(False, "ten"))
    assert parse(GradedSolutions(), **dict(reversed(row.items()))) == parse(
        GradedSolutions(), **row
    )


def test_solutions_that_are_all_right_or_all_wrong_have_no_contrast():
    assert rejection(GradedSolutions(), **graded(a=(True, "x"), b=(True, "y"))) == (
        Reason.no_contrast,
        "all 2 solutions are right",
    )
    assert rejection(GradedSolutions(), **graded(a=(False, "x"), b=(False, "y")))[1].endswith(
        "wrong"
    )


def test_solutions_of_other_types_are_malformed():
    assert rejection(GradedSolutions(), **graded(a=("True", "x"), b=(False, "y"))) == (
        Reason.malformed,
        "'a' needs a boolean and a text",
    )
    assert rejection(GradedSolutions(), question="q")[0] == Reason.malformed


# --- detection ----------------------------------------------------------------------------------

TALK = chat(("user", "a"), ("assistant", "b"))


def ranked(text, rank):
    return {"role": "assistant", "text": text, "rank": rank, "replies": []}


EXAMPLES = {
    "messages": ({"messages": TALK}, "column messages holds lists"),
    "preference": (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        "columns prompt, chosen, rejected",
    ),
    "hh": (
        {"chosen": hh("a", "b"), "rejected": hh("a", "c")},
        "columns chosen, rejected open with 'Human:'",
    ),
    "instruction": ({"instruction": "a", "output": "b"}, "columns instruction, output"),
    "gsm8k": (
        {"question": "a", "answer": "b\n#### 4"},
        "columns question, answer, and answers end in '#### number'",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "column conversations holds chats",
    ),
    "instances": (
        {"instruction": "a", "instances": [{"input": "", "output": "b"}]},
        "columns instruction, instances",
    ),
    "compared": (
        {"input": "a", "output_1": "b", "output_2": "c", "label": 2},
        "columns output_1, output_2, label",
    ),
    "candidates": (
        {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]},
        "columns prompt, responses, scores",
    ),
    "open_assistant": (
        {"prompt": {"role": "prompter", "text": "a", "replies": [ranked("b", 0), ranked("c", 1)]}},
        "column prompt holds trees",
    ),
    "open_assistant_nodes": (
        {"message_id": "1", "parent_message_id": "", "text": "a", "role": "prompter"},
        "columns text, role, parent_message_id",
    ),
    "contents": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "a"}]},
                {"role": "model", "parts": [{"text": "b"}]},
            ]
        },
        "column contents holds lists",
    ),
    "preferred_output": (
        {
            "input": {"messages": chat(("user", "a"))},
            "preferred_output": chat(("assistant", "b")),
            "non_preferred_output": chat(("assistant", "c")),
        },
        "columns input, preferred_output, non_preferred_output",
    ),
    "rejected_response": (
        {"messages": TALK, "rejected_response": "c"},
        "columns messages, rejected_response",
    ),
    "open_assistant_ranked_nodes": (
        {"message_id": "1", "parent_id": "", "text": "a", "role": "prompter", "rank": 0},
        "columns text, role, rank, parent_id",
    ),
    "label_studio": (
        {
            "data": {"prompt": "a", "answer1": "b", "answer2": "c"},
            "annotations": [{"result": [{"value": {"selected": "right"}}]}],
        },
        "columns data, annotations",
    ),
    "rated": (
        {"prompt": "a", "response": "b", "score": 3},
        "column score scores one reply per row",
    ),
    "unpaired": (
        {"prompt": "a", "completion": "b", "label": True},
        "column label holds true and false beside one reply",
    ),
    "mt_bench": ({"question_id": 1, "turns": ["a", "b"]}, "columns question_id, turns"),
    "prompts": ({"prompt": "a", "category": "b"}, "column prompt and no reply"),
    "graded_solutions": (
        graded(m1=(True, "x"), m2=(False, "y")),
        "column question, and m1, m2 hold is_correct and solution",
    ),
}


def test_there_is_an_example_of_every_known_format():
    assert set(EXAMPLES) == {known.name for known in (*KNOWN, FALLBACK)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_format_is_detected_by_its_columns_and_says_why(name):
    row, reason = EXAMPLES[name]
    choice = choose_format(Auto(), [row] * 3, where="a.jsonl")
    assert (choice.format.name, choice.reason) == (name, reason)
    made = list(choice.format.records([RawRow("a.jsonl", 1, row, "chat", "test")]))
    assert made


def test_chats_as_replies_are_detected_without_a_prompt():
    choice = choose_format(Auto(), [{"chosen": TALK, "rejected": TALK}], where="a")
    assert (choice.format, choice.reason) == (
        Preference(),
        "columns chosen, rejected hold lists of messages",
    )


def test_one_odd_row_does_not_hide_the_format():
    good = EXAMPLES["instruction"][0]
    rows: list[dict[str, object]] = [
        dict(good),
        {"instruction": 7, "output": None},
        {"other": 1},
        dict(good),
    ]
    assert choose_format(Auto(), rows, where="a").format == Instruction()


def test_a_format_in_the_config_is_not_second_guessed():
    row: dict[str, object] = {"question": "q", "answer": "a"}
    wanted = Instruction(instruction="question", output="answer")
    assert choose_format(wanted, [row], where="a") == (wanted, "named in the config")


def test_unknown_columns_are_listed_with_the_names_of_the_formats():
    with pytest.raises(DataError) as error:
        choose_format(Auto(), [{"text": "x", "label": 1}], where="a.jsonl")
    message = str(error.value)
    assert message.startswith("a.jsonl: columns text, label match no known format. ")
    assert "--format NAME" in message
    for known in KNOWN:
        assert known.name in message


def test_two_formats_at_once_are_an_error_that_names_both_and_the_words_for_each():
    row = {"prompt": "a", "response": "b", "messages": TALK}
    with pytest.raises(
        DataError,
        match=r"several formats: messages and instruction\. .*--format messages or --format instr",
    ):
        choose_format(Auto(), [row], where="a.jsonl")
    row = {"prompt": "a", "question": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(DataError, match=r"preference,prompt=prompt or .*preference,prompt=ques"):
        choose_format(Auto(), [row], where="a.jsonl")


def test_a_format_is_chosen_by_name_and_refuses_options_of_another():
    union = TypeAdapter(Format)
    assert union.validate_python({"name": "instruction", "output": "response"}) == Instruction(
        output="response"
    )
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        union.validate_python({"name": "hh", "output": "response"})
    with pytest.raises(ValidationError, match="'graded_solutions'"):
        union.validate_python({"name": "gpt"})


# --- a source as records ------------------------------------------------------------------------


def source(tmp_path, *rows, **options):
    import json

    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileSource(path=str(path), **options)


def test_pairs_are_read_as_conversations_by_their_chosen_reply(tmp_path):
    reading = read_conversations(source(tmp_path, EXAMPLES["hh"][0]))
    assert (reading.format, reading.reason) == ("hh", EXAMPLES["hh"][1])
    (row,) = reading.items
    assert isinstance(row, Row)
    assert contents(row.record.messages) == [("user", "a"), ("assistant", "b")]
    (pair,) = read_pairs(source(tmp_path, EXAMPLES["hh"][0])).items
    assert isinstance(pair, Row)
    assert chosen_conversation(pair.record) == row.record


def test_conversations_are_not_pairs(tmp_path):
    with pytest.raises(
        DataError, match=r"format 'messages' .* gives conversations, not preference"
    ):
        read_pairs(source(tmp_path, EXAMPLES["messages"][0]))


def test_rejected_rows_are_quarantined_with_their_location(tmp_path):
    good = EXAMPLES["instruction"][0]
    reading = read_conversations(source(tmp_path, good, {"instruction": "x"}, good))
    items = list(reading.items)
    (dropped,) = (item for item in items if isinstance(item, Quarantined))
    assert (dropped.row, dropped.reason) == (2, Reason.malformed)
    assert dropped.detail == "column 'output' holds nothing, not text"
    assert [item.row for item in items] == [1, 2, 3]


def test_a_wrong_format_is_one_error_that_lists_the_columns(tmp_path):
    wrong = source(tmp_path, {"b": "x", "a": "y"}, format=HH())
    with pytest.raises(
        DataError, match=r"no row is in format 'hh', .*; found columns a, b\. .*row 1"
    ):
        list(read_pairs(wrong).items)


# --- real data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "records", "unread"),
    [
        ("anthropic-evals/agreeableness.jsonl", "preference", 1000, {}),
        ("arena-hard/v0.1_question.jsonl", "prompts", 500, {}),
        ("arena-hard/v2.0_o3-mini-2025-01-31.jsonl", "messages", 750, {}),
        ("fastchat/dummy_conversation.json", "sharegpt", 500, {}),
        ("fastchat/mt_bench_question.jsonl", "mt_bench", 80, {}),
        ("fastchat/mt_bench_reference_gpt-4.jsonl", "mt_bench", 0, {"no_prompt": 30}),
        ("gpteacher/roleplay-simple-deduped-roleplay-instruct.json", "instruction", 1923, {}),
        ("gsm8k/example_model_solutions.jsonl", "graded_solutions", 731, {"no_contrast": 588}),
        ("gsm8k/train.jsonl", "gsm8k", 7473, {}),
        ("hh-rlhf/harmless-base.test.jsonl.gz", "hh", 2312, {}),
        ("hh-rlhf/helpful-base.test.jsonl.gz", "hh", 2354, {}),
        ("hh-rlhf/helpful-rejection-sampled.test.jsonl.gz", "hh", 2749, {}),
        ("llama-factory/alpaca_en_demo.json", "instruction", 999, {}),
        ("llama-factory/dpo_en_demo.json.gz", "preference", 300, {}),
        ("llama-factory/dpo_zh_demo.json", "preference", 300, {}),
        ("llama-factory/glaive_toolcall_en_demo.json", "sharegpt", 300, {}),
        ("llama-factory/kto_en_demo.json", "unpaired", 1, {"merged": 1, "unpaired": 298}),
        ("llama-factory/reason_tool_use_demo_50.jsonl", "messages", 50, {}),
        ("llama-factory/v1_dpo_demo.jsonl", "preference", 10, {}),
        ("llama-factory/v1_sft_demo.jsonl", "messages", 500, {}),
        ("llmbar/Natural.json", "compared", 100, {}),
        ("open-assistant/en_100_tree.jsonl", "open_assistant", 212, {}),
        ("open-assistant/prompt_lottery_en_250_text.jsonl", "prompts", 250, {}),
        ("open-assistant/realistic_seed_data.json", "open_assistant_nodes", 158, {"merged": 286}),
        ("open-instruct/eval_annotations_tulu_1.xlsx", "compared", 1150, {}),
        ("pandalm/testset-v1.json", "compared", 993, {"malformed": 6}),
        ("self-instruct/seed_tasks.jsonl", "instances", 175, {}),
        ("ultrafeedback-1k/train_clean.jsonl", "preference", 1000, {}),
    ],
)
def test_real_files_are_read_whole(real_data, path, name, records, unread):
    _, reading = read_any(FileSource(path=str(real_data / path)))
    assert reading.format == name
    items = list(reading.items)
    aside = [item.reason for item in items if isinstance(item, Quarantined)]
    assert Counter(aside) == unread
    assert len(items) - len(aside) == records


# --- documentation --------------------------------------------------------------------------------


def test_the_documented_table_of_formats_is_what_the_classes_say():
    document = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert formats_table() in document
    assert with_table(document) == document
