"""Which rows a set uses."""

import random
from collections import Counter

import pytest

from alignment.data.build.settings import PairSetConfig
from alignment.records.text import PreferencePair, Quarantined
from tests.alignment.data.build.sets import file, preference, rows_of


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
