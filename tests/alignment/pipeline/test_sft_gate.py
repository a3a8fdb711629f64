"""An SFT that makes the base model worse: what is said, and where the rounds start."""

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.verdict import GateResult
from alignment.execution.run_step import build
from alignment.pipeline.plan import plan
from alignment.pipeline.verdicts import chain_so_far, each_step
from alignment.report.assemble import gather
from alignment.rounds.steps import first_champion
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests import tiny
from tests.inbox import drop, rows

GOOD, BAD = {"chosen": "yes", "rejected": "no"}, {"chosen": "no", "rejected": "yes"}
"""The untrained model prefers GOOD's chosen reply in every row."""


def settings(model, folder, *, imitated, **sft):
    """A run of one round whose SFT imitates these replies, evaluated on the good ones."""
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["chosen"]},
            ]
        }
        for row in rows(0, 32, **imitated)
    ]

    def file(name, written):
        return {"name": "file", "path": str(drop(folder / name, written))}

    made = tiny.settings(model, folder / "store")
    made["sft"]["data"] = {"sources": [file("sft.jsonl", chats)], "held_out_share": 0.0}
    made["sft"]["training"] |= {"epochs": 2, "learning_rate": 2e-2}
    made["sft"] |= sft
    pairs = file("round.jsonl", rows(100, 16, **GOOD))
    made["rounds"] = [{"data": {"sources": [pairs], "held_out_share": 0.0}}]
    held_out = file("held-out.jsonl", rows(9000, 40, **GOOD))
    made["evaluation"] |= {"data": {"sources": [held_out]}, "max_new_tokens": 4}
    made["control"] = None
    return PipelineConfig.model_validate(made)


def run(config):
    store = Store(root=config.store)
    return {step.name: build(store, step, Progress()) for step in each_step(config, store)}


@pytest.fixture(scope="module")
def harmful(tiny_model_folder, tmp_path_factory):
    """A finished run with a harmful SFT, whose rounds start from it."""
    folder = tmp_path_factory.mktemp("harmful")
    config = settings(tiny_model_folder, folder, imitated=BAD)
    return config, run(config)


def test_pairs_given_for_evaluation_are_all_used(harmful):
    """40 pairs in a file, under no further setting."""
    _, records = harmful
    assert records["evaluate-base"].output["overall"]["preference_accuracy"]["n"] == 40


def test_harmful_sft_is_reported_and_the_rounds_start_from_it_unless_configured(harmful):
    config, records = harmful
    gate = records["gate-sft"]
    assert GateResult.model_validate(gate.output).verdict.finding == "failed"
    assert gate.metrics == {"kept": 1.0, "regression": 1.0}
    (note,) = gate.notes
    assert note.startswith(
        "sft is worse than base, and the rounds start from sft (sft.on_regression): "
        "preference accuracy fell by 1.000"
    )
    assert records["dpo-1"].parents["policy"] == records["merge-sft"].key
    store = Store(root=config.store)
    page = gather(store, chain_so_far(config, store), config=config, command="", timings={})
    assert f"gate-sft: {note}" in page.notes
    assert [verdict.candidate for verdict in page.verdicts] == ["round 1"]


def test_rounds_start_from_the_base_model_where_configured(harmful):
    config, before = harmful
    sft = config.sft.model_copy(update={"on_regression": "keep_base"})
    config, store = config.model_copy(update={"sft": sft}), Store(root=config.store)
    planned = {step.name: step for step in plan(chain_so_far(config, store), store)}
    assert planned["dpo-1"].assumes == ("gate-sft",)
    records = run(config)
    assert "and the rounds start from base (sft.on_regression)" in records["gate-sft"].notes[0]
    assert records["merge-sft"].key == before["merge-sft"].key
    start = records["merge-no-sft"]
    assert start.output == records["base"].output
    assert records["dpo-1"].parents["policy"] == start.key
    assert records["gate-1"].parents["against"] == records["evaluate-no-sft"].key
    chain = chain_so_far(config, store)
    assert {step.key for step in chain.steps()} == {record.key for record in records.values()}
    assert first_champion(store, chain).label in ("no sft", "round 1")
    assert [step.label for step in chain.evaluations()] == ["base", "sft", "no sft", "round 1"]


def test_check_can_be_left_out(tiny_model_folder, tmp_path):
    config = settings(tiny_model_folder, tmp_path, imitated=GOOD, gate=None)
    steps = chain_so_far(config, Store(root=config.store)).steps()
    assert "gate-sft" not in {step.name for step in steps}
