"""Commands that look, from another terminal or at a machine: `status`, `env`, `show ROW_ID`."""

import json

from typer.testing import CliRunner

from alignment.config.file import load
from alignment.execution.run_step import run_step
from alignment.pipeline.verdicts import each_step
from alignment.store.progress import Progress
from alignment.store.store import Store
from flows.cli import app
from tests.inbox import line_settings


def sft_dpo(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_status_names_step_progress_process_and_log(tmp_path):
    store = Store(root=tmp_path / "store")
    with store.lock("dpo-1", purpose="dpo-2 of store"):
        progress = Progress()
        with progress.recorded(store.workspace("dpo-1").progress):
            progress.mark("training", 12, 30, loss=0.5)
            running = sft_dpo("status", "--store", store.root)
            (listed,) = json.loads(sft_dpo("status", "--store", store.root, "--json"))
    assert running.startswith("running: dpo-2 of store: training 12/30, loss 0.5, process ")
    assert running.splitlines()[1] == f"  log: {store.root}/logs/dpo-1.log"
    assert (listed["running"], listed["mark"]["done"]) == (True, 12)
    ended = sft_dpo("status", "--store", store.root)
    assert ended.startswith("interrupted: dpo-2 of store: training 12/30, loss 0.5; the same ")
    (tmp_path / "other").mkdir()
    assert "nothing is being built" in sft_dpo("status", "--store", tmp_path / "other")


def test_env_says_what_is_set_and_not_what_it_holds(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted0123")
    monkeypatch.setenv("PREFECT_API_URL", "http://user:planted@here/api")
    shown = sft_dpo("env")
    assert "planted" not in shown + sft_dpo("env", "--json")
    assert "HF_TOKEN, PREFECT_API_URL" in shown
    assert {"sft-dpo", "torch", "machine", "installed in"} <= json.loads(
        sft_dpo("env", "--json")
    ).keys()


def test_a_row_is_found_by_the_id_that_errors_and_reports_name(
    tiny_settings, write_config, tmp_path
):
    settings = load(write_config(line_settings(tiny_settings, tmp_path)), [])
    store = Store(root=settings.store)
    for step, _ in zip(each_step(settings, store), range(2), strict=False):
        record = run_step(store, step)
    lines = (store.folder(record.key) / "held_out.jsonl").read_text().splitlines()
    row = json.loads(lines[3])
    (found,) = json.loads(sft_dpo("show", row["id"], "--store", store.root))
    assert found == {"artifact": record.key, "part": "held_out", "line": 4, "row": row}
