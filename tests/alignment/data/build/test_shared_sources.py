"""Sets that share rows of one source."""

import pytest

from alignment.data.build.settings import ConversationSetConfig, PairSetConfig
from alignment.data.split import Part, PromptKeys
from alignment.errors import DataError
from alignment.records.text import Conversation, Quarantined
from tests.alignment.data.build.sets import file, preference, question, rows_of


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
