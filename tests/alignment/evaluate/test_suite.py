import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.answers.ask import generate
from alignment.data.practice.source import PracticeSource
from alignment.errors import DataError
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.judged import JudgedModel
from alignment.evaluate.settings import EvaluationConfig
from alignment.evaluate.suite import (
    DISTRIBUTIONS,
    GENERATIONS,
    PAIRS,
    TASKS,
    BaselineScores,
    eval_prompts,
    evaluate,
)
from alignment.evaluate.suites.general import GeneralSuite
from alignment.records.evaluation import Generation, PairScore, TaskScore
from alignment.records.text import Message
from alignment.scoring.engine import Stock
from alignment.scoring.logprobs import encode, pair_logprobs
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress

SMALL = EvaluationConfig(dtype="float32", max_new_tokens=4, max_length=256, batch=4)


@pytest.fixture
def verifiable():
    return list(PracticeSource(part="held-out", rows=6).prompts())


@pytest.fixture
def run(tmp_path, pairs, verifiable):
    """A function that evaluates a model: its report, pair scores, generations and folder."""
    made = iter(range(100))

    def evaluate_one(loaded, *, baseline=None, config=SMALL):
        out = tmp_path / f"out-{next(made)}"
        out.mkdir()
        report = evaluate(
            config,
            label="model",
            model=loaded,
            pairs=pairs,
            prompts=eval_prompts(verifiable, pairs, limit=4),
            baseline=baseline,
            seed=0,
            out=out,
            progress=Progress(),
        )
        rows = {
            name: [kind.model_validate_json(line) for line in (out / name).read_text().splitlines()]
            for name, kind in ((PAIRS, PairScore), (GENERATIONS, Generation))
        }
        return SimpleNamespace(
            report=report, scores=rows[PAIRS], generations=rows[GENERATIONS], out=out
        )

    return evaluate_one


def against(base):
    """The baseline of a model that was trained directly from the base."""
    return BaselineScores(
        base=base.scores, distributions=base.out / DISTRIBUTIONS, parent=base.scores
    )


def test_the_base_model_is_its_own_baseline(run, open_tiny, pairs):
    found = run(open_tiny())
    assert [score.id for score in found.scores] == [pair.id for pair in pairs]
    assert all(s.chosen == s.base_chosen and s.rejected == s.base_rejected for s in found.scores)
    assert found.report.overall["margin"].value == 0
    assert found.report.overall["kl_from_base"].value == 0
    assert "logprob_drift" not in found.report.overall
    assert found.report.overall["preference_accuracy"].n == len(pairs)


class Raises:
    """A check that cannot read any reply."""

    name = "raises"

    def __call__(self, reply):
        raise ValueError(f"no number in {reply!r}")


def test_check_that_raises_leaves_its_reply_unchecked_and_is_named(
    open_tiny, pairs, verifiable, tmp_path, caplog
):
    prompts = eval_prompts(verifiable, pairs, limit=4)
    broken: Any = Raises()
    prompts[0] = replace(prompts[0], verifier=broken)
    report = evaluate(
        SMALL, label="model", model=open_tiny(), pairs=pairs, prompts=prompts, baseline=None,
        seed=0, out=tmp_path, progress=Progress(),
    )  # fmt: skip
    replies = list(read_rows(tmp_path / GENERATIONS, Generation))
    assert [row.passed is None for row in replies] == [True, False, False, False]
    assert report.overall["pass_rate"].n == 3
    assert report.unchecked == 1
    assert f"the check 'raises' of prompt {prompts[0].id} raised ValueError" in caplog.text


def test_checks_that_can_read_no_reply_of_a_source_are_refused(
    open_tiny, pairs, verifiable, tmp_path
):
    broken: Any = Raises()
    prompts = [replace(prompt, verifier=broken) for prompt in eval_prompts(verifiable, pairs)[:4]]
    with pytest.raises(DataError, match=r"none of the 4 replies to the prompts of 'practice'"):
        evaluate(
            SMALL, label="model", model=open_tiny(), pairs=pairs, prompts=prompts, baseline=None,
            seed=0, out=tmp_path, progress=Progress(),
        )  # fmt: skip


def test_pairs_are_scored_as_everywhere_else(run, open_tiny, pairs):
    loaded = open_tiny()
    found = run(loaded)
    expected = pair_logprobs(loaded.model, loaded.tokenizer, pairs, batch=1, max_length=256)
    assert [s.chosen for s in found.scores] == pytest.approx(expected.chosen.tolist(), rel=1e-5)
    assert [s.rejected for s in found.scores] == pytest.approx(expected.rejected.tolist(), rel=1e-5)
    for score, pair in zip(found.scores, pairs, strict=True):
        row = encode(loaded.tokenizer, pair.prompt, pair.chosen, max_length=256)
        assert score.chosen_tokens == len(row.reply)


def test_a_trained_model_is_compared_with_the_bases_scores(run, open_tiny, tiny_ref, make_adapter):
    base = run(open_tiny())
    trained = run(open_tiny(tiny_ref.push(make_adapter("a", seed=1))), baseline=against(base))
    assert [s.base_chosen for s in trained.scores] == [s.chosen for s in base.scores]
    drift = [abs(t.chosen - b.chosen) for t, b in zip(trained.scores, base.scores, strict=True)]
    assert trained.report.overall["logprob_drift"].value == pytest.approx(sum(drift) / len(drift))
    assert trained.report.overall["margin"].value != 0


def test_kl_from_the_base_is_the_mean_over_all_tokens_of_the_chosen_replies(
    run, open_tiny, tiny_ref, make_adapter, pairs
):
    """The mean of sum_v p(v) (log p(v) - log q(v)), p the trained model, q the base.

    By whole forward passes, one row at a time.
    """
    base, trained = open_tiny(), open_tiny(tiny_ref.push(make_adapter("a", seed=1)))
    found = run(trained, baseline=against(run(base)))
    per_token: list[float] = []
    for pair in pairs:
        row = encode(base.tokenizer, pair.prompt, pair.chosen, max_length=256)
        ids = torch.tensor([[*row.prompt, *row.reply]])
        with torch.no_grad():
            q, p = (m.model(input_ids=ids).logits[0].log_softmax(-1) for m in (base, trained))
        kl = (p.exp() * (p - q)).sum(-1)[len(row.prompt) - 1 : -1]
        per_token += kl.tolist()
    estimate = found.report.overall["kl_from_base"]
    assert estimate.value > 1e-4
    assert estimate.n == len(pairs)
    assert estimate.value == pytest.approx(sum(per_token) / len(per_token), rel=1e-3)


def test_a_base_whose_first_reply_was_not_truncated_is_compared_up_to_the_models_length(
    run, open_tiny, tiny_ref, make_adapter
):
    """Stored evaluations of an earlier version are like that."""
    base, trained = run(open_tiny()), open_tiny(tiny_ref.push(make_adapter("a", seed=1)))
    found = run(trained, baseline=against(base)).report.overall["kl_from_base"]
    file = base.out / DISTRIBUTIONS
    longer = {name: torch.cat([own, own[:1]]) for name, own in load_file(file).items()}
    save_file(longer, file)
    again = run(trained, baseline=against(base)).report.overall["kl_from_base"]
    assert again.value == found.value > 0


def test_the_batch_size_changes_no_number(run, open_tiny):
    small, large = (
        run(open_tiny(), config=SMALL.model_copy(update={"batch": size})) for size in (1, 16)
    )
    assert small.generations == large.generations
    assert [s.chosen for s in small.scores] == pytest.approx(
        [s.chosen for s in large.scores], rel=1e-5
    )


def test_replies_are_the_models_own_and_judged_by_the_prompts_verifier(run, open_tiny, verifiable):
    loaded = open_tiny()
    found = run(loaded)
    prompts = verifiable[:4]
    replies = generate(
        loaded.model, loaded.tokenizer, [row.prompt for row in prompts], max_new_tokens=4, batch=1
    )
    for row, reply, generation in zip(prompts, replies, found.generations, strict=True):
        assert generation.id == row.id
        assert generation.reply == reply.text
        assert generation.passed is row.verifier(reply.text)
        assert generation.unseen is row.unseen


def test_verifiable_prompts_take_precedence_over_those_of_the_pairs(verifiable, pairs):
    assert [q.id for q in eval_prompts(verifiable, pairs, limit=3)] == [
        r.id for r in verifiable[:3]
    ]
    from_pairs = eval_prompts([], pairs, limit=100)
    assert [question.id for question in from_pairs] == [pair.id for pair in pairs]
    assert all(question.verifier is None for question in from_pairs)


def test_a_reply_without_a_verifier_has_no_verdict(tmp_path, open_tiny, pairs):
    evaluate(
        SMALL,
        label="model",
        model=open_tiny(),
        pairs=pairs[:1],
        prompts=eval_prompts([], pairs, limit=1),
        baseline=None,
        seed=0,
        out=tmp_path,
        progress=Progress(),
    )
    (row,) = (tmp_path / GENERATIONS).read_text().splitlines()
    assert json.loads(row)["passed"] is None


def test_a_prompt_is_the_same_in_pairs_and_replies_whatever_its_turns(tmp_path, open_tiny, pairs):
    """So that a prompt which the gate seals is sealed in both."""
    rules = [Message(role="system", content=f"Rule {n}") for n in range(2)]
    asked = [
        pair.model_copy(update={"prompt": (rules[n % 2], *pair.prompt)})
        for n, pair in enumerate(pairs)
    ]
    report = evaluate(
        SMALL, label="model", model=open_tiny(), pairs=asked, prompts=eval_prompts([], asked),
        baseline=None, seed=0, out=tmp_path, progress=Progress(),
    )  # fmt: skip
    rows = ScoredRows(
        pairs=list(read_rows(tmp_path / PAIRS, PairScore)),
        generations=list(read_rows(tmp_path / GENERATIONS, Generation)),
    )
    judged = JudgedModel.of(report, rows).rows
    assert judged["pairs"] == judged["generations"]
    assert len({row.prompt for row in judged["pairs"].values()}) == len({p.prompt for p in asked})


def test_suites_are_measured_beside_the_runs_own_prompts(run, open_tiny):
    suite = GeneralSuite(parts=("over-refusal", "refusal"), items=3)
    found = run(open_tiny(), config=SMALL.model_copy(update={"suites": (suite,)}))
    rows = list(read_rows(found.out / TASKS, TaskScore))
    expected = [p.verifier(row.reply) for p, row in zip(suite.prompts(), rows, strict=True)]
    assert [row.score for row in rows] == expected
    assert found.report.overall["suite_score"].n == 6
    assert found.report.by_task_type["refusal"]["suite_score"].n == 3
    assert found.report.by_source["general"].keys() == {"suite_score"}
    assert found.report.overall["pass_rate"].n == len(found.generations) == 4
    assert found.report.tasks == TASKS
    assert run(open_tiny()).report.tasks is None


def test_the_base_model_is_measured_again_and_others_take_its_noise(
    run, open_tiny, tiny_ref, make_adapter
):
    """In bfloat16, where rows in another batch are rounded differently."""
    config = SMALL.model_copy(update={"noise_floor": 2, "engine": Stock()})
    half = replace(base := open_tiny(), model=base.model.bfloat16())
    first = run(half, config=config)
    assert first.report.overall.keys() >= first.report.noise.keys() >= {"nll", "pass_rate"}
    assert 0 < first.report.noise["nll"] < 0.01
    baseline = replace(against(first), noise=first.report.noise)
    trained = open_tiny(tiny_ref.push(make_adapter("a", seed=1)))
    assert run(trained, config=config, baseline=baseline).report.noise == first.report.noise
    assert run(open_tiny()).report.noise == {}
