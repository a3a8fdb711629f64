"""`sft-dpo doctor` from a shell."""

import json
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def doctor(write_config, tiny_settings):
    """Run the command on the tiny configuration, with overrides."""

    def run(*words):
        code = "import sys; from flows.cli import main; main()"
        config = str(write_config(tiny_settings))
        command = [sys.executable, "-c", code, "doctor", config, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


def test_it_prints_all_verdicts_writes_a_page_and_exits_with_zero(doctor, tmp_path):
    done = doctor()
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
        (["--device", "b200"], "choose one of a100-40gb"),
        (["--set", "dpo.betta=1"], "unknown key dpo.betta"),
        (["--set", "rounds.0.data.sources.0={name: file, path: none.jsonl}"], "none.jsonl"),
        (["--set", "model={name: hub, id: nobody/nothing}"], "nobody/nothing"),
    ],
    ids=["device", "config", "data", "model"],
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
