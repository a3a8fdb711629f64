"""The notebook of docs/python.md runs as it is printed, and its functions load only when asked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from alignment import load_config, open_model, report_of, run
from alignment.errors import UsageError
from tests.inbox import drop, rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_settings, tmp_path):
    """A run of one step of DPO on a base model, and nothing else."""
    source = {"name": "file", "path": str(drop(tmp_path / "pairs.jsonl", rows(0, 24)))}
    tiny_settings["rounds"] = [{"data": {"sources": [source], "held_out_share": 0.5}}]
    tiny_settings |= {"sft": {"name": "none"}, "control": None}
    del tiny_settings["evaluation"]["data"]
    tiny_settings["dpo"] |= {"max_steps": 1, "samples": 0}
    path = tmp_path / "run.yaml"
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(tiny_settings, stream)
    return path


def test_the_documented_notebook_runs_and_reuses_what_is_there(config, monkeypatch, capsys):
    page = (ROOT / "docs" / "python.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(config.parent)
    names: dict[str, object] = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("RUN base base-")
    assert re.search(r"^round 1 [01]\.\d+ \[", printed, re.MULTILINE)
    settings = load_config(config, ["dpo.loss.beta=0.2"])
    seen: list[str] = []
    again = run(settings, on_step=lambda record: seen.append(record.key))
    assert again == names["finished"]
    assert seen == [record.key for record in again.steps.values()]


def test_what_is_not_there_is_an_error_that_says_what_to_do(config):
    settings = load_config(config)
    with pytest.raises(UsageError, match=r"has not ended: base, .* of \d+ steps are missing"):
        report_of(settings)
    with pytest.raises(UsageError, match="nothing called 'x'"):
        open_model(settings.store, "x")


def test_importing_the_package_loads_none_of_it():
    code = (
        "import sys, alignment; loaded = set(sys.modules); alignment.load_config; "
        "print(sorted(m for m in loaded if m.startswith(('alignment.', 'torch', 'pydantic'))), "
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[] False\n", done.stderr
