"""The anchored gate from a shell, on the tiny model: what CI reads, and too little input."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from alignment.data.split import unit_hash
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


def scaled_head(made, folder, factor, **generation):
    """The model with its last norm scaled, so that it computes other logits or none."""
    source, broken = Path(made["model"]["path"]), folder / "broken"
    shutil.copytree(source, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] *= factor
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    config = broken / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **generation}))
    made["model"]["path"] = str(broken)


def no_numbers(made, folder):
    scaled_head(made, folder, float("nan"))


def empty_replies(made, folder):
    """All logits are equal, so each reply begins with token 0, which ends it."""
    scaled_head(made, folder, 0.0, eos_token_id=[0, 2])


def checks_that_raise(made, folder):
    pytest.importorskip("math_verify", reason="the extra 'math' is not installed")
    verifier = {"name": "math_answer", "answer": "}{"}
    lines = [json.dumps({"prompt": f"{n} + 1?", "verifier": verifier}) + "\n" for n in range(3)]
    (folder / "sums.jsonl").write_text("".join(lines))
    made["evaluation"]["suites"] = [{"name": "file", "path": str(folder / "sums.jsonl")}]


def unknown_task(made, _folder):
    pytest.importorskip("lm_eval", reason="the extra 'lm-eval' is not installed")
    made["evaluation"]["harness"] = {"tasks": ["hellaswagg"]}


def one_type_of_task(made, folder):
    """As they are: forty pairs, which all count though a data set would hold 5 % of them out."""


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (one_type_of_task, 0, "round 1 is kept: preference accuracy is .* lost of 40 rows"),
        (empty_replies, 0, "round 1 cannot be judged, .* no reply of the anchor has a token"),
        (no_numbers, 1, "The model computes no numbers: .* Look for broken weights"),
        (checks_that_raise, 2, "none of the 3 replies to the prompts of 'sums' could be checked"),
        (unknown_task, 2, "knows no task 'hellaswagg'"),
    ],
)
def test_bad_input_gets_an_error_or_no_verdict(
    sft_dpo, tiny_settings, write_config, tmp_path, change, code, said
):
    made = settings_of(tiny_settings, tmp_path, rows(9000, 40))
    del made["inbox"]
    path = str(drop(tmp_path / "round.jsonl", rows(0, 16)))
    sources = [{"name": "file", "path": path}]
    made["rounds"] = [{"data": {"sources": sources, "held_out_share": 0.0}}]
    change(made, tmp_path)
    done = sft_dpo("run", write_config(made))
    assert done.returncode == code, done.stdout + done.stderr
    assert re.search(said, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


def test_pairs_that_cannot_be_used_are_counted_by_reason(
    sft_dpo, tiny_settings, write_config, tmp_path
):
    made = settings_of(tiny_settings, tmp_path, rows(9000, 40))
    drop(tmp_path / "inbox" / "monday.jsonl", rows(0, 20, chosen="yes", rejected="yes"))
    done = sft_dpo("round", write_config(made))
    assert "0 new pairs in 1 batches, 16 are needed (dropped: 20 identical_pair)" in done.stdout


def test_sealed_rows_judge_every_second_round_and_the_others_all(
    sft_dpo, tiny_settings, write_config, tmp_path
):
    """A real line of three rounds: which rows judged each follows from its evidence."""
    made = settings_of(tiny_settings, tmp_path, rows(9000, 90))
    made["gate"] |= {"sealed_share": 0.34, "sealed_every": 2, "min_rows": 20}
    config, judged = write_config(made), []
    for number in range(3):
        drop(tmp_path / "inbox" / f"{number}.jsonl", rows(100 * number, 32))
        found = json.loads(sft_dpo("round", config, "--json").stdout)
        judged.append(read_evidence(Path(found["evidence"]).read_bytes(), "the file"))
    assert [one.look for one in judged] == [1, 2, 3]
    assert len({one.rows["pairs"].id for one in judged}) == 1, "the same rows, whatever is sealed"
    prompts = judged[0].rows["pairs"].prompt
    sealed = sum(unit_hash(prompt, salt="sealed") < 0.34 for prompt in prompts)
    assert 20 <= sealed <= 45
    for one in judged:
        words = {check.name: check.words for check in one.verdict.checks}
        assert f"lost of {90 - sealed} rows" in words["preference accuracy to anchor"]
        opened = words.get("preference accuracy on sealed rows", "")
        assert (f"on the {sealed} sealed rows" in opened) == (one.look == 2)


def test_pairs_of_public_benchmarks_are_reported_by_subset(
    sft_dpo, tiny_settings, write_config, tmp_path
):
    """A file in the columns of RewardBench and one in those of LLMBar, which has no subset."""
    bench = [
        {**row, "chosen_model": "a", "rejected_model": "b", "subset": subset, "id": number}
        for subset in ("math-prm", "alpacaeval-easy")
        for number, row in enumerate(rows(len(subset) * 100, 12))
    ]
    drop(tmp_path / "rewardbench.jsonl", bench)
    bar = [
        {
            "input": f"Question {n}: is it?",
            "output_1": "yes.",
            "output_2": "no.",
            "label": 1 + n % 2,
        }
        for n in range(10)
    ]
    (tmp_path / "llmbar.json").write_text(json.dumps(bar))
    made = settings_of(tiny_settings, tmp_path, [])
    bench_source = {"path": "rewardbench.jsonl", "columns": {"subset": "task_type"}}
    bar_source = {"path": "llmbar.json", "task_type": "llmbar-natural"}
    made["evaluation"]["data"] = {
        "sources": [
            {**source, "name": "file", "path": str(tmp_path / source["path"])}
            for source in (bench_source, bar_source)
        ],
        "min_rows": 0,
    }
    done = sft_dpo("run", write_config(made))
    assert done.returncode == 0, done.stdout + done.stderr
    (numbers,) = (tmp_path / "store" / "reports").glob("*.json")
    found = json.loads(numbers.read_text())["evaluations"][0]["by_task_type"]
    assert {task: metrics["preference_accuracy"]["n"] for task, metrics in found.items()} == {
        "math-prm": 12,
        "alpacaeval-easy": 12,
        "llmbar-natural": 10,
    }
    page = numbers.with_suffix(".html").read_text()
    assert "math-prm" in page
    assert "llmbar-natural" in page
