"""A run and a round with nothing to do are answered from the store, without Prefect."""

import json
import os
import re
import subprocess
import sys

import pytest

from alignment.config.file import load
from alignment.errors import UsageError
from alignment.execution.run_step import run_step
from alignment.pipeline.effort import Efforts
from alignment.pipeline.verdicts import chain_so_far, each_step
from alignment.report.assemble import write_report
from alignment.rounds.intake import Wanted
from alignment.rounds.references import find_one
from alignment.store.store import Store
from flows.commands.runs import show_runs
from flows.display import Display
from flows.environment import may_have_server
from flows.unchanged import IdleRound, unchanged_run
from tests.inbox import drop, line_settings, rows
from tests.prefect_service import ROOT

CODE = """
import atexit, json, sys
heavy = {"prefect", "torch", "matplotlib"}
atexit.register(lambda: print(json.dumps(sorted(heavy & set(sys.modules)))))
from flows.cli import main
main()
"""


@pytest.fixture
def config(tiny_settings, write_config, tmp_path):
    """The config of a finished run with a model, evaluation rows and an inbox."""
    path = write_config(line_settings(tiny_settings, tmp_path))
    settings = load(path, [])
    store = Store(root=settings.store)
    for step in each_step(settings, store):
        run_step(store, step)
    return path


@pytest.fixture
def without_server(monkeypatch, tmp_path):
    """No Prefect server is configured, wherever Prefect would look."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("without_server")
def test_nothing_to_do_is_said_without_prefect_and_the_page_stays(config, tmp_path):
    def sft_dpo(command):
        words = [sys.executable, "-c", CODE, command, str(config)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        *lines, loaded = done.stdout.splitlines()
        return lines, json.loads(loaded), done.stderr

    page = tmp_path / "store" / "reports" / "tiny.html"
    settings = load(config, [])
    store = Store(root=settings.store)
    command = f"sft-dpo run {config}"
    write_report(store, chain_so_far(settings, store), config=settings, command=command)
    written = page.stat().st_mtime_ns
    lines, loaded, errors = sft_dpo("run")
    assert loaded == []
    assert lines[-1] == f"report: {page}"
    assert errors.count(" reused ") == 5
    assert page.stat().st_mtime_ns == written
    lines, loaded, _ = sft_dpo("round")
    assert loaded == []
    assert lines[0].startswith("no new data: no complete batch in ")


def test_work_is_left_to_the_flow(config, tmp_path):
    settings = load(config, [])
    display = Display([], Efforts(Store(root=settings.store)))
    assert unchanged_run(settings, "", display) is not None
    drop(tmp_path / "inbox" / "monday.jsonl", rows(0, 20))
    assert IdleRound(settings, Wanted()).result() is None
    assert unchanged_run(load(config, ["seed=1"]), "", display) is None
    evaluation = next((tmp_path / "store" / "objects").glob("eval*/generations.jsonl"))
    evaluation.write_text("{}")
    assert unchanged_run(settings, "", display) is None


def test_a_damaged_manifest_is_left_to_the_flow_which_builds_its_step_again(config):
    settings = load(config, [])
    store = Store(root=settings.store)
    display = Display([], Efforts(store))
    step = next(step for step in each_step(settings, store) if step.name == "evaluate-base")
    manifest = store.folder(step.key) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"seed"', b'"sEed"'))
    assert unchanged_run(settings, "", display) is None
    run_step(store, step)
    assert unchanged_run(settings, "", display) is not None


def test_two_configs_of_one_name_are_told_apart(config, tmp_path, capsys):
    def report(*overrides):
        settings = load(config, overrides)
        store = Store(root=settings.store)
        steps = chain_so_far(settings, store)
        command = " ".join(["sft-dpo run tiny.yaml", *overrides])
        return write_report(store, steps, config=settings, command=command).html

    first = report()
    before = first.read_bytes()
    second = report("inbox.min_new_pairs=3")
    assert second.name.startswith("tiny-")
    assert first.read_bytes() == before
    assert (report(), report("inbox.min_new_pairs=3")) == (first, second)

    store = Store(root=tmp_path / "store")
    show_runs(store.root, as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("tiny, seed 0: ") == 2
    assert re.search(r"differs from tiny-\w{6} in inbox.min_new_pairs: (16 -> 3|3 -> 16)\n", shown)
    model = next(record.key for record in store.records() if record.name == "merge-sft")
    assert find_one(store, "tiny/merge-sft").key == model
    assert find_one(store, "tiny/no-sft").key == model
    assert find_one(store, f"{second.stem}/no-sft").key == model
    with pytest.raises(UsageError, match=r"tiny has no 'round-9'; name .*: tiny/base, tiny/no-sft"):
        find_one(store, "tiny/round-9")
    with pytest.raises(UsageError, match=r"nothing called 'tiyn/base' .* Did you mean tiny/base\?"):
        find_one(store, "tiyn/base")


@pytest.mark.usefixtures("without_server")
@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("pyproject.toml", '[project]\ndependencies = ["fastapi"]\n', False),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://here/api"\n', True),
        (".env", "PREFECT_API_URL=http://here/api\n", True),
        ("prefect/profiles.toml", '[profiles.mine]\nPREFECT_API_URL = "http://here"\n', True),
        ("prefect/profiles.toml", '[profiles.mine]\nPREFECT_LOGGING_LEVEL = "INFO"\n', False),
    ],
)
def test_a_server_is_looked_for_where_prefect_reads_its_address(file, text, expected, tmp_path):
    assert not may_have_server()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert may_have_server() is expected


@pytest.mark.usefixtures("without_server")
def test_a_server_in_the_environment_is_seen(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert may_have_server()
