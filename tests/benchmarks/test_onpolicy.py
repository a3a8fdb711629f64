"""The benchmark of rounds on own answers: its tables, and a rehearsal on the tiny model."""

import json
import subprocess
import sys

import pytest

from alignment.config.file import load
from alignment.records.evaluation import Estimate, EvalReport
from alignment.store.jsonl import read_rows
from benchmarks import gsm8k
from benchmarks.onpolicy import ARMS, Reply, Trained, per_seed, pooled, sources
from tests.own_answers import LETTERS, own_settings
from tests.prefect_service import ROOT


def made(arm, seed, passing):
    rate = Estimate(value=passing / 20, low=0.0, high=1.0, n=20)
    report = EvalReport(
        model=arm,
        overall={"pass_rate": rate},
        by_task_type={},
        by_source={},
        generations="",
        pairs="",
    )
    replies = tuple(
        Reply(id=f"p{row}", passed=row < passing, unseen=row % 2 == 0) for row in range(20)
    )
    return Trained(
        arm=arm, seed=seed, pairs=(5, 6), steps=(1, 2), report=report, before=report,
        replies=replies,
    )  # fmt: skip


FOUND = [
    made(arm, seed, passing)
    for seed in (0, 1)
    for arm, passing in (("own", 14), ("fixed", 10), ("one-shot", 14))
]


def test_a_row_has_pairs_steps_and_rates_with_intervals():
    rows = per_seed(FOUND).splitlines()
    assert len(rows) == 2 + 2 * 4
    assert rows[3] == "| own | 0 | 5 + 6 | 1 + 2 | 0.700 [0.000, 1.000] |  |  |  |"


def test_arms_are_compared_prompt_by_prompt_over_all_seeds():
    rows = pooled(FOUND).splitlines()[2:]
    assert "| own - fixed | all | +0.200 [" in rows[0]
    assert rows[0].endswith("| 8, 0, 32 |")
    assert rows[2].startswith("| own - fixed | unseen phrasing | +0.200")
    assert "| own - one-shot | all | +0.000 [" in rows[3]


def test_the_preset_has_a_source_for_each_round_also_where_that_is_on_own_answers():
    rounds = load(ROOT / "deployments" / "configs" / "practice.yaml").rounds
    found = [sources(round_.data, 8) for round_ in rounds]
    assert [(one["part"], one["rows"]) for (one,) in found] == [
        ("round-1", 8), ("round-2", 8), ("round-3", 8),
    ]  # fmt: skip


def test_gsm8k_becomes_sets_without_common_questions(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    solution = "She has <<2*500=1000>>1,000.\n#### 1,000"
    train = [{"question": f"Question {n}?", "answer": solution} for n in range(600)]
    texts = {"6b": {"is_correct": True, "solution": "It is <<4=4>>4.\nA: 4"}}
    texts["175b"] = {"is_correct": False, "solution": "A: 5"}
    solved = [{"question": f"Test {n}?", "ground_truth": "", **texts} for n in range(60)]
    solved.append(solved[0] | {"175b": texts["6b"]})  # nothing to tell apart
    for name, rows in (("train", train), ("example_model_solutions", solved)):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    gsm8k.main([str(data), str(out), "--model", "folder"])
    sets = {f.stem: [*map(json.loads, f.read_text().splitlines())] for f in out.glob("*.jsonl")}
    assert {name: len(rows) for name, rows in sets.items()} == {
        "sft": 100, "questions": 500, "pairs-held-out": 30,
        "pairs-1": 10, "pairs-2": 10, "pairs-3": 10,
    }  # fmt: skip
    assert len({row["prompt"] for rows in sets.values() for row in rows}) == 660
    assert sets["sft"][0]["completion"] == "She has 1,000.\nA: 1,000"
    assert sets["questions"][0]["verifier"] == {"name": "last_number", "number": 1000}
    assert sets["pairs-1"][0]["chosen"] == "It is 4.\nA: 4"
    assert gsm8k.score([], "So $4.00", "A: 4")
    assert not gsm8k.score([], "5", "A: 4")
    assert len(load(out / "gsm8k.yaml").rounds) == 3


@pytest.mark.slow
def test_the_whole_comparison_at_the_smallest_size(tiny_model_folder, tmp_path, write_config):
    settings = own_settings(tiny_model_folder, tmp_path)
    settings["evaluation"]["data"]["sources"][0]["rows"] = 32
    settings["dpo"]["max_steps"] = None
    first, second = (
        [{"name": "practice", "part": part, "rows": 4}] for part in ("round-1", "round-2")
    )
    own = {"name": "own_answers", "prompts": second}
    settings["rounds"] = [{"data": {"sources": first}}, {"data": own}]
    config, store = write_config(settings), tmp_path / "arms"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.onpolicy", "--store", str(store), "--config",
         str(config), "--seeds", "0", "--prompts", "60", "--samples", "6", "--temperature", "1.5",
         "--label", json.dumps(LETTERS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (store / "onpolicy.md").read_text() == done.stdout
    assert [row.arm for row in read_rows(store / "onpolicy.jsonl", Trained)] == list(ARMS)
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    by_arm = {row[0].strip("| "): row for row in rows}
    assert by_arm["own"][2:4] == by_arm["fixed"][2:4], "as many pairs and steps"
