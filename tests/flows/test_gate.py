"""The anchored gate from a shell, on the tiny model: what CI reads, and too little input."""

import json
from pathlib import Path

import pytest

from alignment.evaluate.evidence import read_evidence
from tests.inbox import drop, line_settings, rows

pytestmark = pytest.mark.slow


@pytest.fixture
def sft_dpo(server):
    def run(*words):
        code = "from flows.cli import main; main()"
        return server.run("-c", code, *map(str, words), seconds=900)

    return run


def settings_of(tiny_settings, folder, evaluated):
    """A line whose held-out rows are those of one file, named and nothing else."""
    made = line_settings(tiny_settings, folder)
    made["evaluation"]["data"] = None
    if evaluated:
        path = str(drop(folder / "given.jsonl", evaluated))
        made["evaluation"]["data"] = {"sources": [{"name": "file", "path": path}]}
    made["gate"] = {"name": "anchored", "margin": 0.3, "max_repetition_rise": 1.0}
    drop(folder / "inbox" / "monday.jsonl", rows(0, 32))
    return made


def test_round_prints_its_verdict_and_the_evidence_repeats_it(
    sft_dpo, tiny_settings, write_config, tmp_path
):
    config = write_config(settings_of(tiny_settings, tmp_path, rows(9000, 40)))
    done = sft_dpo("round", config, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    content = Path(found["evidence"]).read_bytes()
    evidence = read_evidence(content, "the file")
    assert found["verdict"] == evidence.verdict.model_dump(mode="json")
    assert len(evidence.rows["pairs"].id) == 40, "all pairs that were given"
    assert found["outcome"] == "kept"
    repeated = sft_dpo("verdict", found["evidence"], "--config", config)
    assert repeated.returncode == 0, repeated.stderr
    assert repeated.stdout.splitlines()[0] == found["message"]
    other = sft_dpo("verdict", "champion", "--store", tmp_path / "store", "--config", config,
                    "--set", "gate.margin=0.2")  # fmt: skip
    assert other.returncode == 2
    assert "gate.margin: 0.3 then, 0.2 now" in other.stderr


def test_few_rows_are_not_judged_and_the_champion_stays(
    sft_dpo, tiny_settings, write_config, tmp_path
):
    config = write_config(settings_of(tiny_settings, tmp_path, rows(9000, 12)))
    found = json.loads(sft_dpo("round", config, "--json").stdout)
    assert found["outcome"] == "cannot be judged"
    assert "no metric has 30 held-out rows" in found["message"]
    assert sft_dpo("verdict", found["evidence"]).returncode == 3
    shown = sft_dpo("show", "--store", tmp_path / "store").stdout
    assert "1 round from the inbox: 1 cannot be judged" in shown
    assert f"champion no sft {found['champion']}" in shown


@pytest.mark.parametrize(
    "evaluated", [[], rows(9000, 40, chosen="yes", rejected="yes")], ids=["none", "only ties"]
)
def test_no_rows_end_the_round_before_it_is_trained(
    sft_dpo, tiny_settings, write_config, tmp_path, evaluated
):
    done = sft_dpo("round", write_config(settings_of(tiny_settings, tmp_path, evaluated)))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "has no evaluation rows, so rounds cannot be compared with it" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "store" / "objects").glob("dpo-*"))
