"""The benchmark of rounds on own answers: its tables, and a rehearsal on the tiny model."""

import json
import subprocess
import sys

import pytest

from alignment.records.evaluation import Estimate, EvalReport, Generation
from benchmarks.onpolicy import Trained, per_seed, pooled
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
    generations = tuple(
        Generation(
            id=f"p{row}", task_type="t", source="s", prompt="Ask", reply="yes",
            tokens=1, stopped=True, passed=row < passing, unseen=row % 2 == 0,
        )
        for row in range(20)
    )  # fmt: skip
    return Trained(
        arm=arm, seed=seed, pairs=(5, 6), steps=(1, 2), report=report, before=report,
        generations=generations,
    )  # fmt: skip


FOUND = [
    made(arm, seed, passing)
    for seed in (0, 1)
    for arm, passing in (("own", 14), ("fixed", 10), ("one-shot", 14))
]


def test_a_row_has_pairs_steps_and_rates_with_intervals():
    rows = per_seed(FOUND).splitlines()
    assert len(rows) == 2 + 2 * 4
    assert rows[3] == "| own | 0 | 5 + 6 | 1 + 2 | 0.700 [0.000, 1.000] |  |  |"


def test_arms_are_compared_prompt_by_prompt_over_all_seeds():
    rows = pooled(FOUND).splitlines()[2:]
    assert "| own - fixed | all | +0.200 [" in rows[0]
    assert rows[0].endswith("| 8, 0, 32 |")
    assert rows[2].startswith("| own - fixed | unseen phrasing | +0.200")
    assert "| own - one-shot | all | +0.000 [" in rows[3]


@pytest.mark.slow
def test_the_whole_comparison_at_the_smallest_size(tiny_model_folder, tmp_path, write_config):
    settings = own_settings(tiny_model_folder, tmp_path)
    settings["evaluation"]["data"]["sources"][0]["rows"] = 32
    settings["dpo"]["max_steps"] = None
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
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    by_arm = {row[0].strip("| "): row for row in rows}
    assert by_arm["own"][2:4] == by_arm["fixed"][2:4], "as many pairs and steps"
