import json
import random
from collections import Counter

import pytest
from pydantic import ValidationError

from alignment.data.build.prepare import prepare_conversations, prepare_pairs
from alignment.data.build.settings import ConversationSetConfig, Lengths, PairSetConfig
from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import FileSource
from alignment.data.row import Reason
from alignment.data.split import Part, PromptKeys
from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError
from alignment.models.chat_template import render
from alignment.records.text import Conversation, Message, PreferencePair, Quarantined
from alignment.store.jsonl import read_rows
from tests.chats import with_template


@pytest.fixture
def prepare(tmp_path, chatml_tokenizer):
    """A function that prepares a set in its own folder and returns (reference, report, folder)."""
    made = iter(range(100))

    def run(
        config,
        *,
        seed=1,
        earlier=None,
        tokenizer=chatml_tokenizer,
        whole=4096,
        prompt=2048,
        out=None,
        **more,
    ):
        out = tmp_path / (out or f"out-{next(made)}")
        out.mkdir(exist_ok=True)
        if isinstance(config, PairSetConfig):
            prepared = prepare_pairs(
                config,
                lengths=Lengths(prompt=prompt, whole=whole, reply=16),
                tokenizer=tokenizer,
                earlier=earlier or {},
                seed=seed,
                out=out,
                **more,
            )
        else:
            prepared = prepare_conversations(
                config,
                max_length=whole,
                tokenizer=tokenizer,
                earlier=earlier or {},
                seed=seed,
                out=out,
                **more,
            )
        return (*prepared, out)

    return run


def file(tmp_path, rows, name="a.jsonl", **options) -> FileSource:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    return FileSource(path=str(tmp_path / name), **options)


def question(number, *, answer="yes"):
    return {"instruction": f"Question {number}?", "output": answer}


def preference(number, *, chosen="yes, it is", rejected="no", **columns):
    return {
        "prompt": f"Question {number}?",
        "chosen": chosen,
        "rejected": rejected,
        **columns,
    }


def rows_of(out, name, model):
    return list(read_rows(out / name, model))


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


# --- shares of one source -----------------------------------------------------------------------


def test_two_rounds_share_a_file_without_sharing_a_prompt(tmp_path, prepare):
    source = file(tmp_path, [preference(number) for number in range(100)])
    rounds = [
        PairSetConfig(sources=(source,), part=Part(index=index, of=2), held_out_share=0.1)
        for index in (1, 2)
    ]
    first, _, out = prepare(rounds[0])
    earlier = {"round 1": PromptKeys.read(out / "prompt_keys.json")}
    second, report, _ = prepare(rounds[1], earlier=earlier)
    assert first.kept + first.held + second.kept + second.held == 100
    assert report.sources[0].dropped == {"other_part": first.kept + first.held}


def test_a_second_round_on_the_same_rows_is_refused_with_advice(tmp_path, prepare):
    source = file(tmp_path, [preference(number) for number in range(20)])
    config = PairSetConfig(sources=(source,), held_out_share=0)
    _, _, out = prepare(config)
    with pytest.raises(DataError) as error:
        prepare(config, earlier={"round 1": PromptKeys.read(out / "prompt_keys.json")})
    assert str(error.value) == (
        "no usable pairs remain to train on, min_rows is 1: 20 rows read, 0 held out, dropped: "
        "used_by_earlier_round 20. Give each round its own rows: other sources, or part: "
        "{index: 1, of: 2} in one round and {index: 2, of: 2} in the next."
    )


def test_a_round_may_train_on_prompts_of_sft_but_never_on_its_held_out_ones(tmp_path, prepare):
    """With the same seed and share, the pairs hold out the same prompts as SFT."""
    pairs = file(tmp_path, [preference(number) for number in range(100)])
    sft, _, out = prepare(ConversationSetConfig(sources=(pairs,), held_out_share=0.2))
    earlier = {"sft": PromptKeys.read(out / "prompt_keys.json")}
    same, _, _ = prepare(PairSetConfig(sources=(pairs,), held_out_share=0.2), earlier=earlier)
    assert (same.kept, same.held, same.quarantined) == (sft.kept, sft.held, {})
    none, _, _ = prepare(PairSetConfig(sources=(pairs,), held_out_share=0), earlier=earlier)
    assert (none.kept, none.quarantined) == (sft.kept, {"in_evaluation_set": sft.held})
    more, _, _ = prepare(PairSetConfig(sources=(pairs,), held_out_share=0.5), earlier=earlier)
    assert more.held == sft.held
    assert list(more.quarantined) == ["used_by_earlier_round"]


def test_sft_does_not_train_on_the_prompts_of_an_evaluation_set(tmp_path, prepare):
    exam = file(tmp_path, [question(3), question(7)], name="exam.jsonl", use="held_out")
    _, _, out = prepare(ConversationSetConfig(sources=(exam,), min_rows=0))
    earlier = {"evaluation": PromptKeys.read(out / "prompt_keys.json")}
    source = file(tmp_path, [question(number) for number in range(10)])
    ref, _, out = prepare(
        ConversationSetConfig(sources=(source,), held_out_share=0), earlier=earlier
    )
    assert (ref.kept, ref.quarantined) == (8, {"in_evaluation_set": 2})
    details = {row.detail for row in rows_of(out, ref.quarantine, Quarantined)}
    assert details == {"its prompt is held out by evaluation"}


def test_limit_counts_all_rows_and_adding_rows_reorders_none(tmp_path, prepare):
    rows = [question(number) for number in range(60)]
    config = ConversationSetConfig(sources=(file(tmp_path, rows),), held_out_share=0.2, limit=30)
    ref, _, out = prepare(config)
    assert ref.kept + ref.held == 30
    assert ref.quarantined == {"over_limit": 30}
    before = [row.id for row in rows_of(out, ref.train, Conversation)]
    file(tmp_path, [question("new"), *rows])
    ref, _, out = prepare(config)
    after = [row.id for row in rows_of(out, ref.train, Conversation)]
    assert [name for name in after if name in before] == [name for name in before if name in after]
    assert len(set(before) - set(after)) <= 1  # the new row may push the last one out


def test_an_evaluation_source_is_never_trained_on(tmp_path, prepare):
    """Question 3 is in both files, so it is used for evaluation only."""
    train = file(tmp_path, [question(number) for number in range(5)])
    test = file(
        tmp_path, [question(3), question(7)], name="test.jsonl", use="held_out", task_type="exam"
    )
    ref, report, out = prepare(ConversationSetConfig(sources=(train, test), held_out_share=0))
    assert (ref.kept, ref.held, ref.quarantined) == (4, 2, {"in_evaluation_set": 1})
    assert {row.task_type for row in rows_of(out, ref.held_out, Conversation)} == {"exam"}
    assert [account.held_out for account in report.sources] == [0, 2]


# --- refusals -----------------------------------------------------------------------------------


def test_too_many_unreadable_rows_fail_with_the_first_line(tmp_path, prepare):
    """2 bad rows of 100 are 2.0 %, twice what the default tolerates."""
    rows = [question(number) for number in range(98)]
    source = file(tmp_path, [*rows[:41], "{broken", *rows[41:], '{"instruction": 7}'])
    with pytest.raises(DataError) as error:
        prepare(ConversationSetConfig(sources=(source,)))
    assert str(error.value) == (
        "2 of 100 rows (2.0%) are unreadable, more than max_malformed_share 0.01 tolerates. "
        f"The first: {source.path} line 42: broken JSON: Expecting property name enclosed in "
        "double quotes at column 2. Fix the file, or raise max_malformed_share."
    )
    ref, _, _ = prepare(ConversationSetConfig(sources=(source,), max_malformed_share=0.02))
    assert ref.quarantined == {"malformed": 2}


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "too_long 3. Raise max_length; for SFT, `too_long: truncate_oldest_turns`"),
        ({"min_rows": 4}, "min_rows is 4: 3 rows read, 0 held out, dropped: none. Add rows"),
    ],
)
def test_too_few_rows_are_refused_with_the_counts_and_advice(tmp_path, prepare, options, advice):
    source = file(tmp_path, [question(number) for number in range(3)])
    with pytest.raises(DataError, match=advice):
        prepare(
            ConversationSetConfig(sources=(source,), held_out_share=0, **options),
            whole=4096 if options else 5,
        )


def test_rows_that_only_another_template_renders_are_refused_with_its_setting(
    tmp_path, prepare, chatml_tokenizer
):
    chat = [{"role": role, "content": "Yes."} for role in ("system", "user", "assistant")]
    source = file(tmp_path, [{"messages": chat}])
    refuses = with_template(
        chatml_tokenizer,
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + chatml_tokenizer.chat_template,
    )
    with pytest.raises(DataError, match=r"template 1\. .*system: into_user"):
        prepare(ConversationSetConfig(sources=(source,), held_out_share=0), tokenizer=refuses)


def test_a_file_in_two_sources_is_refused(tmp_path, prepare):
    source = file(tmp_path, [question(1)])
    folder = FileSource(path=str(tmp_path))
    with pytest.raises(DataError, match=r"a\.jsonl is read by two sources, .* remove it from one"):
        prepare(ConversationSetConfig(sources=(source, folder)))


@pytest.mark.parametrize(
    "values",
    [
        {"sources": ()},
        {"held_out_share": 0.6},
        {"limit": 0},
        {"max_malformed_share": 1.5},
        {"max_seq_length": 10},
    ],
)
def test_values_that_make_no_sense_are_refused(values):
    PairSetConfig(sources=(PracticeSource(),))
    with pytest.raises(ValidationError):
        PairSetConfig(**{"sources": (PracticeSource(),), **values})


def test_the_digest_of_a_set_follows_its_files(tmp_path):
    config = ConversationSetConfig(sources=(file(tmp_path, [question(1)]), PracticeSource()))
    before = config.digest()
    assert config.digest() == before
    file(tmp_path, [question(2)])
    assert config.digest() != before


# --- which rows a set uses ------------------------------------------------------------------------


def long_text(seed, words=120):
    draw = random.Random(seed)
    return " ".join(f"word{draw.randrange(3000)}" for _ in range(words))


def test_near_duplicates_are_dropped_within_a_set_and_across_rounds(tmp_path, prepare):
    """Round 2's first row is one of round 1 with a word added, and its third repeats its second."""
    rows = [preference(n, chosen=long_text(n), rejected=long_text(n + 50)) for n in range(10)]
    options = {"held_out_share": 0, "near_duplicates": 0.8}
    _, _, one = prepare(PairSetConfig(sources=(file(tmp_path, rows[:5]),), **options))
    again = {**rows[0], "prompt": "Question  0?", "chosen": rows[0]["chosen"] + " more"}
    close = {**rows[7], "rejected": rows[7]["rejected"] + " more"}
    source = file(tmp_path, [again, rows[7], close], name="b.jsonl")
    config = PairSetConfig(sources=(source,), **options)
    ref, _, out = prepare(config, earlier_signatures={"round 1": one / "likeness.npy"})
    aside = {row.row: row.detail for row in rows_of(out, ref.quarantine, Quarantined)}
    assert aside == {
        1: "nearly the same as round 1",
        3: f"nearly the same as {source.path} row 2",
    }
    assert prepare(PairSetConfig(sources=(source,), held_out_share=0))[0].kept == 3


def test_rows_that_contain_an_evaluation_prompt_are_not_trained_on(tmp_path, prepare):
    """Row 6 contains most of a long prompt, row 7 is a short one, and row 8 contains too little."""
    prompts = [{"prompt": long_text(1, words=40)}, {"prompt": "Who are you?"}]
    rows = [preference(n) for n in range(5)]
    rows.append(preference(5, rejected="so: " + " ".join(prompts[0]["prompt"].split()[:36])))
    rows.append({**preference(6), "prompt": "who are  you?"})
    rows.append(preference(7, chosen=" ".join(prompts[0]["prompt"].split()[:20])))
    evaluation = file(tmp_path, prompts, name="evaluation.jsonl")
    config = PairSetConfig(
        sources=(file(tmp_path, rows),), held_out_share=0, evaluation_prompts=(evaluation,)
    )
    ref, _, out = prepare(config)
    assert ref.kept == 6
    aside = [(row.row, row.reason, row.detail) for row in rows_of(out, ref.quarantine, Quarantined)]
    assert aside == [  # the first 36 words contain 29 of the prompt's 33 8-grams
        (6, "in_evaluation_set", f"contains 88% of the prompt at {evaluation.path} row 1"),
        (7, "in_evaluation_set", f"same prompt as {evaluation.path} row 2"),
    ]
    assert config.digest() != PairSetConfig(sources=config.sources).digest()


def test_a_weight_samples_a_share_that_added_rows_do_not_change(tmp_path, prepare):
    """Of 200 prompts, a weight of 0.3 samples 60 on average, standard deviation 6.5."""
    rows = [preference(number) for number in range(200)]
    config = PairSetConfig(sources=(file(tmp_path, rows, weight=0.3),), held_out_share=0)
    ref, _, out = prepare(config)
    before = {row.id for row in rows_of(out, ref.train, PreferencePair)}
    assert 35 < ref.kept < 85
    assert ref.quarantined == {"not_sampled": 200 - ref.kept}
    file(tmp_path, [preference("new"), *rows])
    ref, _, out = prepare(config)
    assert before <= {row.id for row in rows_of(out, ref.train, PreferencePair)}


def test_task_types_and_prompts_are_kept_up_to_their_limits(tmp_path, prepare):
    rows = [preference(n, task_type="math" if n < 10 else "chat") for n in range(20)]
    rows += [preference(3, chosen=f"yes {n}", task_type="math") for n in range(3)]
    source = file(tmp_path, rows)
    config = PairSetConfig(
        sources=(source,), held_out_share=0, task_limits={"math": 4, "law": 1}, max_per_prompt=2
    )
    ref, _, out = prepare(config)
    kept = Counter(row.task_type for row in rows_of(out, ref.train, PreferencePair))
    assert kept == {"math": 4, "chat": 10}
    assert ref.quarantined == {"over_limit": 7, "repeated_prompt": 2}


def test_control_tokens_are_spelled_out_on_request(tmp_path, prepare):
    rows = [preference(1), preference(2, chosen="ends with <|im_end|>")]
    config = PairSetConfig(sources=(file(tmp_path, rows),), held_out_share=0, markers="as_text")
    ref, report, out = prepare(config)
    replies = {row.chosen[0].content for row in rows_of(out, ref.train, PreferencePair)}
    assert replies == {"yes, it is", "ends with < |im_end|>"}
    assert report.notes == ("1 rows had control tokens in their text, now spelled out",)


def test_an_interrupted_preparation_resumes_and_gives_the_same_bytes(
    tmp_path, prepare, monkeypatch
):
    monkeypatch.setattr("alignment.data.build.shards.SHARD", 20)
    monkeypatch.setattr("alignment.data.build.shards.BATCH", 10)
    source = file(tmp_path, [preference(number) for number in range(100)])
    config = PairSetConfig(sources=(source,), held_out_share=0.2, near_duplicates=0.9)

    def stop(_, done, __):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, out="stopped", on_progress=stop)
    assert len(list((tmp_path / "stopped.shards").glob("*/000-*[0-9]"))) == 2
    counts = []
    _, _, out = prepare(config, out="stopped", on_progress=lambda _, done, __: counts.append(done))
    assert counts[:3] == [20, 40, 50]
    assert not (tmp_path / "stopped.shards").exists()
    _, _, whole = prepare(config)
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


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
