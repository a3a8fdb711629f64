"""`sft-dpo doctor` from a shell."""

import json
import resource
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def doctor(called, write_config, tiny_settings):
    """Run the command on the tiny configuration, with overrides."""
    return lambda *words: called("doctor", write_config(tiny_settings), *words)


@pytest.fixture
def started_doctor(write_config, tiny_settings):
    """The same in a process of its own."""

    def run(*words):
        code = "import sys; from flows.cli import main; main()"
        config = str(write_config(tiny_settings))
        command = [sys.executable, "-c", code, "doctor", config, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    return run


def test_it_prints_all_verdicts_writes_a_page_and_exits_with_zero(started_doctor, tmp_path):
    done = started_doctor()
    assert done.returncode == 0, done.stderr
    assert "✓  template" in done.stdout
    assert "!  schedule" in done.stdout
    page = tmp_path / "store" / "reports" / "tiny-doctor.html"
    assert "</html>" in page.read_text()
    assert f"page: {page}" in done.stdout


def test_json_has_a_verdict_for_each_check_and_a_failure_exits_with_one(doctor):
    done = doctor("--json", "--set", "dpo.warmup_ratio=0.9")
    findings = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert findings["schedule"]["verdict"] == "fail"
    assert "warmup_ratio" in findings["schedule"]["remedy"]
    assert {f["verdict"] for f in findings.values()} == {"ok", "warn", "fail"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--device", "b200"], "choose one of a100-40gb", id="device", marks=pytest.mark.slow
        ),
        pytest.param(["--set", "dpo.betta=1"], "unknown key dpo.betta", id="config"),
        pytest.param(
            ["--set", "rounds.0.data.sources.0={name: file, path: none.jsonl}"],
            "none.jsonl",
            id="data",
        ),
        pytest.param(
            ["--set", "model={name: hub, id: nobody/nothing}"],
            "nobody/nothing",
            id="model",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_error_that_would_end_the_run_exits_with_two_and_one_line(doctor, arguments, message):
    done = doctor(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_template_that_marks_no_reply_exits_with_one(
    doctor, tiny_settings, tiny_model_folder, tmp_path
):
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    tiny_settings["model"]["path"] = str(folder)
    done = doctor()
    assert done.returncode == 1
    assert "✗  template" in done.stdout


@pytest.mark.slow
def test_a_7b_model_is_checked_without_its_weights_in_under_20_seconds_of_cpu(
    started_doctor, tiny_settings, chatml_tokenizer, tmp_path
):
    """The whole command, with its imports and the preparation of the data."""
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(tmp_path / "7b")  # the defaults are Llama-7B's
    chatml_tokenizer.save_pretrained(tmp_path / "7b")
    tiny_settings["model"]["path"] = str(tmp_path / "7b")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = started_doctor("--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["model"]["verdict"] == "warn"
    assert "adapters cover all weights in its blocks" in found["model"]["headline"]
    assert f"{tmp_path / '7b'} has no weights yet" in found["model"]["headline"]
    assert found["memory"]["figures"]["dpo-1_gib"] > 13
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20


def test_a_folder_without_weights_can_be_checked_but_neither_planned_nor_run(
    tiny_settings, tiny_model_folder, write_config, tmp_path
):
    from alignment.config.file import load
    from alignment.doctor.examine import examine
    from alignment.errors import ModelError
    from flows.commands.plan import print_plan

    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tiny_settings["model"]["path"] = str(folder)
    config = write_config(tiny_settings)
    (found,) = (f for f in examine(load(config, [])).findings if f.check == "model")
    assert found.verdict == "warn"
    with pytest.raises(ModelError, match=r"has no \*\.safetensors weights: a run needs them"):
        print_plan(config, [], as_json=False)
