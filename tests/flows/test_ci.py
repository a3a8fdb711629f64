"""The GitHub workflow: YAML that runs commands which exist, and fails where the gate says so."""

import json
import os
import subprocess
import sys

import pytest
import typer
from ruamel.yaml import YAML

from alignment.evaluate.settings import AnchoredGate
from alignment.execution.run_step import run_step
from alignment.pipeline.steps import AnchorGate
from alignment.store.store import Store
from flows.ci import github_workflow
from flows.cli import app
from tests.alignment.artifacts import put, put_evaluation
from tests.faults.simulate import MODEL

WORKFLOW = YAML(typ="safe", pure=True).load(github_workflow("configs/our line.yaml"))
STEPS = WORKFLOW["jobs"]["round"]["steps"]
SCRIPTS = {step["name"]: step["run"] for step in STEPS if "run" in step}


def test_workflow_is_yaml_with_the_values_that_were_given():
    made = github_workflow(
        "a.yaml", install='pip install "x"', runner="ubuntu-latest", cron="1 * * * *"
    )
    job = YAML(typ="safe", pure=True).load(made)["jobs"]["round"]
    assert job["runs-on"] == "ubuntu-latest"
    assert job["env"] == {"CONFIG": "a.yaml"}
    assert job["steps"][1]["run"] == 'pip install "x"'
    assert '- cron: "1 * * * *"' in made
    assert "[[" not in made
    assert WORKFLOW["jobs"]["round"]["runs-on"] == ["self-hosted", "gpu"]


def test_each_command_of_the_workflow_exists():
    commands = typer.main.get_group(app).commands
    for words in ("doctor $CONFIG", "round $CONFIG --json", "verdict $evidence --config $CONFIG"):
        name, _, *options = words.split()
        assert f'sft-dpo {words.split()[0]} "' in " ".join(SCRIPTS.values())
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {option for option in options if option.startswith("--")} <= known


def bash(script, folder, **more):
    """Run a step like GitHub does, with the `sft-dpo` of this checkout."""
    program = folder / "bin" / "sft-dpo"
    program.parent.mkdir()
    call = "from flows.cli import main; main()"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{call}' \"$@\"\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    root = os.pathsep.join(sys.path)
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": root, **more},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("right", "code"), [(300, 0), (100, 1)])
def test_step_ends_with_the_verdict(tmp_path, write_config, tiny_settings, right, code):
    store = Store(root=tmp_path / "runs")
    for label, count in (("sft", 290), ("new", right)):
        put(store, f"merge-{label}", output={**MODEL, "derived_from": label})
        put_evaluation(
            store, f"evaluate-{label}", label, right=count, of=400,
            parents={"model": f"merge-{label}"},
        )  # fmt: skip
    step = AnchorGate(
        name="gate-1", config=AnchoredGate(), look=1, anchor="evaluate-sft",
        candidate="merge-new", evaluation="evaluate-new",
        champion="merge-sft", against="evaluate-sft",
    )  # fmt: skip
    run_step(store, step)
    evidence = str(store.folder(step.key) / "verdict.json")
    (tmp_path / "round.json").write_text(json.dumps({"evidence": evidence}))
    for key in ("dtype", "max_length", "max_new_tokens"):  # as the evaluations above have them
        tiny_settings["evaluation"].pop(key)
    config = write_config({**tiny_settings, "gate": {"name": "anchored"}})
    done = bash(SCRIPTS["Repeat the verdict from its evidence"], tmp_path, CONFIG=str(config))
    assert done.returncode == code, done.stderr
    assert (tmp_path / "verdict.json").exists()


def test_step_passes_when_nothing_was_judged(tmp_path):
    (tmp_path / "round.json").write_text(json.dumps({"evidence": ""}))
    assert bash(SCRIPTS["Repeat the verdict from its evidence"], tmp_path).returncode == 0
