"""The command line as a user sees it: exit codes, one-line errors, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from typer.testing import CliRunner

from alignment.config.pipeline import PipelineConfig
from alignment.errors import UsageError
from alignment.execution.device import device_facts, obstacle
from alignment.pipeline.chain_builder import chain
from flows.cli import app
from tests.prefect_service import ROOT, end_group, wait_for

PAIR = {"prompt": "Say yes.", "chosen": "yes", "rejected": "no"}


@pytest.fixture
def sft_dpo(server):
    """Run the command against a shared real server, so that no call has to start one."""

    def run(*words):
        code = "import sys; from flows.cli import main; main()"
        return server.run("-c", code, *words)

    return run


def one_round(settings, source):
    """A chain without SFT whose only round reads this source."""
    settings["sft"] = {"name": "none"}
    settings["control"] = None
    settings["rounds"] = [{"data": {"sources": [source], "held_out_share": 0.0}}]
    return settings


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from flows.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'trl', 'prefect', 'pydantic', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plan_shows_every_step_and_builds_nothing(sft_dpo, tiny_settings, write_config, tmp_path):
    """A second plan knows what the first one tried; no round could ask the inbox's engine."""
    answers = {"label": {"name": "delta", "weak": tiny_settings["model"]}}
    answers["engine"] = {"name": "vllm", "python": "/nowhere/python"}
    tiny_settings["inbox"] = {"answers": answers}
    config = str(write_config(tiny_settings))
    done = sft_dpo("plan", config)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) == len(list(chain(PipelineConfig.model_validate(tiny_settings)).steps()))
    assert all(line.startswith("RUN ") for line in lines)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["trials"]
    assert "trying the model" in done.stderr
    assert "inbox.answers.engine.python: /nowhere/python does not run" in done.stderr
    again = sft_dpo("plan", config)
    assert (again.stdout, "trying" in again.stderr) == (done.stdout, False)


def test_plan_as_json_has_the_libraries_own_names(called, tiny_settings, write_config):
    steps = json.loads(called("plan", write_config(tiny_settings), "--json").stdout)
    (first,) = (step for step in steps if step["name"] == "dpo-1")
    assert first["resolved"]["trl.DPOConfig"]["per_device_train_batch_size"] == 4
    assert first["resolved"]["peft.LoraConfig"]["lora_alpha"] == 8


def refused(done, *parts):
    """Assert that the call ended with code 2, and that its last line contains these parts."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    for part in parts:
        assert part in lines[-1], lines[-1]
    assert "Traceback" not in done.stderr


def test_a_typo_in_the_config_names_line_and_nearest_key(sft_dpo, tiny_settings, write_config):
    tiny_settings["dpo"]["learning_rat"] = 1
    refused(sft_dpo("run", str(write_config(tiny_settings))), "tiny.yaml:", "'learning_rate'?")


def test_a_typo_in_an_override_is_not_blamed_on_the_file(sft_dpo, tiny_settings, write_config):
    done = sft_dpo("run", str(write_config(tiny_settings)), "--set", "dpo.learning_rat=1")
    refused(done, "--set 'dpo.learning_rat=1': unknown key", "'learning_rate'?")


@pytest.mark.skipif(obstacle(device_facts()) is None, reason="this machine has a usable GPU")
@pytest.mark.parametrize("command", ["run", "round"])
def test_a_gpu_that_is_not_there_is_missed_before_anything_else(
    sft_dpo, tiny_settings, write_config, tmp_path, command
):
    tiny_settings["device"] = "cuda"
    done = sft_dpo(command, str(write_config(tiny_settings)))
    refused(done, "the config asks for `device: cuda`", "To mend it, install", "device=cpu")
    first, _ = done.stderr.splitlines()
    assert first.startswith(f"device: CPU, {os.cpu_count()} cores (no GPU: ")
    assert first.endswith("| the config expects a GPU, full weights, float32")
    assert not (tmp_path / "store").exists()


def test_a_missing_data_file_is_named(sft_dpo, tiny_settings, write_config, tmp_path):
    source = {"name": "file", "path": str(tmp_path / "none.jsonl")}
    done = sft_dpo("run", str(write_config(one_round(tiny_settings, source))))
    refused(done, str(tmp_path / "none.jsonl"))
    assert not (tmp_path / "store" / "objects").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("", ("rows.jsonl", "empty"), id="empty file", marks=pytest.mark.slow),
        pytest.param(
            json.dumps(PAIR) + "\n{broken\n",
            ("rows.jsonl", "line 2", "broken JSON"),
            id="broken line",
        ),
        pytest.param(
            '{"question": 1, "colour": 2}\n',
            ("rows.jsonl", "colour", "question"),
            id="wrong columns",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            json.dumps(PAIR | {"rejected": "yes"}) + "\n",
            ("pairs-1: no usable pairs", "identical_pair 1"),
            id="no usable pairs",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_data_that_cannot_be_used_ends_the_run_with_one_line(
    sft_dpo, tiny_settings, write_config, tmp_path, text, parts
):
    (tmp_path / "rows.jsonl").write_text(text)
    source = {"name": "file", "path": str(tmp_path / "rows.jsonl")}
    refused(sft_dpo("run", str(write_config(one_round(tiny_settings, source)))), *parts)
    assert not list((tmp_path / "store" / "objects").glob("pairs-*/train.jsonl"))[1:]


def test_an_unknown_model_is_named_with_a_way_out(sft_dpo, tiny_settings, write_config):
    tiny_settings["model"] = {"name": "hub", "id": "nobody/nothing"}
    refused(sft_dpo("run", str(write_config(tiny_settings))), "'nobody/nothing'", "name: folder")


def test_a_hub_model_that_cannot_do_what_is_asked_is_refused_before_its_weights_are_fetched(
    server, tiny_settings, write_config, tmp_path
):
    """The hub's cache holds a config and nothing else, so that a run that fetched would say so."""
    from benchmarks.tiny_models import config_of

    cached = tmp_path / "hub" / "models--someone--phi3"
    config_of("phi3").save_pretrained(cached / "snapshots" / ("1" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1" * 40)
    tiny_settings["model"] = {"name": "hub", "id": "someone/phi3"}
    config = str(write_config(tiny_settings))
    for command in ("plan", "run"):
        code = "from flows.cli import main; main()"
        done = server.run("-c", code, command, config, HF_HUB_CACHE=str(tmp_path / "hub"))
        refused(done, "gate_proj, k_proj, q_proj, up_proj, v_proj match no linear layer of phi3")


def test_plan_says_that_a_model_out_of_reach_was_not_tried(sft_dpo, tiny_settings, write_config):
    tiny_settings["model"] = {"name": "hub", "id": "nobody/nothing"}
    done = sft_dpo("plan", str(write_config(tiny_settings)))
    assert done.returncode == 0
    assert "the model was not tried: model 'nobody/nothing' is not in the local" in done.stderr


def test_a_model_folder_with_damaged_weights_is_refused(
    sft_dpo, tiny_settings, write_config, tiny_model_folder, tmp_path
):
    import shutil

    copy = shutil.copytree(tiny_model_folder, tmp_path / "model")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    tiny_settings["model"]["path"] = str(copy)
    refused(sft_dpo("run", str(write_config(tiny_settings))), "model.safetensors is damaged")


def test_an_adapter_folder_without_weights_is_an_error_and_not_skipped(
    sft_dpo, tiny_settings, write_config, tmp_path
):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    tiny_settings["sft"] = {"name": "adapter", "path": str(tmp_path / "adapter")}
    done = sft_dpo("run", str(write_config(tiny_settings)))
    refused(done, "has no adapter_model.safetensors")


def test_a_store_that_cannot_be_written_is_refused(sft_dpo, tiny_settings, write_config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    tiny_settings["store"] = str(tmp_path / "file" / "store")
    refused(sft_dpo("run", str(write_config(tiny_settings))), "cannot write", "--set store=FOLDER")


def test_bad_usage_has_code_two(sft_dpo):
    assert sft_dpo("run").returncode == 2
    assert sft_dpo("nothing").returncode == 2


def test_a_server_that_does_not_start_in_time_ends_the_run_with_one_line(
    server, tiny_settings, write_config, tmp_path
):
    """Prefect waits 0 s for its temporary server, so no step starts."""
    own = {
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "0",
    }
    code = "from flows.cli import main; main()"
    done = server.run("-c", code, "run", str(write_config(tiny_settings)), **own)
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("Prefect's temporary server did not answer within 0 s")
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS higher" in message
    assert not list((tmp_path / "store").glob("objects/*"))


def alive(group):
    """The processes of a group that have not ended; an ended orphan may wait to be collected."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def restore_ctrl_c():
    """Restore the default of SIGINT, as in a terminal; background processes inherit it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def begun(server, tiny_settings, write_config, tmp_path):
    """A run on a temporary server, in a group of its own, after its first step; and its log."""
    environment = server.environment | {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    }
    del environment["PREFECT_API_URL"]
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        run = subprocess.Popen(
            [*command, str(write_config(tiny_settings))],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=restore_ctrl_c,
        )
    try:
        wait_for("a first step", lambda: b"[ 1/" in log.read_bytes() or None, seconds=300, log=log)
        yield run, log
        wait_for("no process left", lambda: not alive(run.pid) or None, seconds=10, log=log)
        assert "Traceback" not in log.read_text()
    finally:
        end_group(run)


@pytest.mark.parametrize(
    ("sign", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_a_signal_to_the_whole_group_ends_a_run_in_two_lines(begun, sign, code):
    """As Ctrl-C in a terminal, `timeout` and service managers send it: to Prefect's server, too."""
    run, log = begun
    os.killpg(run.pid, sign)
    wait_for("the word", lambda: b"stopped;" in log.read_bytes() or None, seconds=30, log=log)
    os.killpg(run.pid, signal.SIGINT)  # once more, while it cleans up
    assert run.wait(30) == code, log.read_text()
    first, last = log.read_text().splitlines()[-2:]
    assert first.startswith("stopping: a training first saves a checkpoint")
    assert last == "stopped; run the same command to continue from here"


def test_a_second_ctrl_c_ends_a_run_whose_step_does_not_stop(begun, tmp_path):
    run, log = begun
    work = tmp_path / "store" / "work"

    def training():
        return list(work.glob("sft-*/progress.jsonl")) or None

    wait_for("a training", training, seconds=300, log=log)
    server = next(p for p in psutil.Process(run.pid).children() if "run_step" in str(p.cmdline()))
    (step,) = server.children()
    step.suspend()  # so it saves nothing, and would be killed after 25 s
    os.killpg(run.pid, signal.SIGINT)
    wait_for("a word", lambda: b"Ctrl-C again" in log.read_bytes() or None, seconds=3, log=log)
    time.sleep(1.2)  # two presses, and not one that came twice
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(3) == 130, log.read_text()
    last = log.read_text().splitlines()[-1]
    assert last == "ended at once; run the same command to continue from the last checkpoint"
    go_on = f"sft-dpo run {tmp_path / 'tiny.yaml'}"
    for words in ("compare tiny tiny", "verdict tiny", "show tiny/round-1", "trace tiny --spikes"):
        named = CliRunner().invoke(app, [*words.split(), "--store", str(tmp_path / "store")])
        assert isinstance(named.exception, UsageError)
        assert "has not finished" in str(named.exception)
        assert f"To go on: {go_on} " in str(named.exception)
    listed = CliRunner().invoke(app, ["runs", "--store", str(tmp_path / "store")])
    assert f"not finished; to go on: {go_on}\n" in listed.output


@pytest.mark.parametrize("given", ["", "30"])
def test_a_run_waits_two_minutes_for_its_temporary_server_by_default(server, given):
    code = (
        "from flows.environment import quiet_prefect\n"
        "quiet_prefect()\n"
        "from prefect.settings import get_current_settings\n"
        "print(get_current_settings().server.ephemeral.startup_timeout_seconds)"
    )
    own = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": given} if given else {}
    assert server.run("-c", code, **own).stdout.strip() == (given or "120")


def test_show_explains_that_an_artifact_or_a_store_is_missing(sft_dpo, tmp_path):
    refused(
        sft_dpo("show", "merge-dpo-9", "--store", str(tmp_path)), "nothing called 'merge-dpo-9'"
    )
    refused(sft_dpo("show", "--store", str(tmp_path / "ruins")), "no store")
    empty = sft_dpo("show", "--store", str(tmp_path))
    assert (empty.returncode, empty.stdout) == (0, "")
    assert empty.stderr.startswith(f"nothing in {tmp_path} yet")


def test_data_is_read_by_its_path_alone(sft_dpo, tmp_path):
    rows = [{**PAIR, "prompt": f"Say yes {n}."} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{cut")
    out = tmp_path / "out"
    done = sft_dpo("data", str(tmp_path / "a.jsonl"), "--out", str(out))
    assert done.returncode == 0
    assert "preference (columns prompt, chosen, rejected), pairs" in done.stdout
    assert "total: 4 read, 3 kept, 1 quarantined (malformed 1)" in done.stdout
    assert len((out / "kept.jsonl").read_text().splitlines()) == 3
    again = sft_dpo("data", str(out / "kept.jsonl"), "--out", str(tmp_path / "again"), "--json")
    assert json.loads(again.stdout)["kept"] == 3


def test_data_of_which_no_row_is_usable_ends_with_2_and_says_why(sft_dpo, tmp_path):
    """Both files are written; the counts and what was not read are printed before the error."""
    label = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps({**label, "label": 1, "model": "m"}) + "\n")
    out = tmp_path / "out"
    done = sft_dpo("data", str(tmp_path / "a.jsonl"), "--out", str(out))
    assert done.returncode == 2
    assert "none of 1 rows is usable: unpaired 1." in done.stderr
    assert "--column label=" in done.stderr
    assert "1 quarantined (unpaired 1)" in done.stdout
    assert (out / "quarantine.jsonl").read_text().count("\n") == 1
    words = ("--column", "label=", "--out", str(tmp_path / "all"))
    done = sft_dpo("data", str(tmp_path / "a.jsonl"), *words)
    assert done.returncode == 0
    assert "not read: model (1)" in done.stdout


def test_a_setting_of_a_format_is_given_on_the_command_line(sft_dpo, tmp_path):
    rows = [{"prompt": "q", "response_a": "x", "response_b": "y", "label": n} for n in (0, 1)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    words = ("data", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"))
    refused(sft_dpo(*words), "--format compared,zero_is=first")
    done = sft_dpo(*words, "--format", "compared,zero_is=second")
    assert done.returncode == 0
    (kept,) = (tmp_path / "out" / "kept.jsonl").read_text().splitlines()
    assert json.loads(kept)["chosen"][0]["content"] == "y"
    refused(sft_dpo(*words, "--format", "compared,zero_is"), "expected NAME or NAME,FIELD=VALUE")


def test_unreadable_data_ends_with_one_line_and_nothing_is_written(sft_dpo, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n')
    out = tmp_path / "out"
    for path, words in (("absent", ()), ("a.jsonl", ()), ("a.jsonl", ("--format", "hw"))):
        done = sft_dpo("data", str(tmp_path / path), "--out", str(out), *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert not out.exists() or not list(out.iterdir())


def test_data_says_what_a_run_would_refuse(sft_dpo, tmp_path):
    rows = [{**PAIR, "prompt": f"Say yes {n}."} for n in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{cut")
    done = sft_dpo("data", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0
    assert "note: a run refuses these files: 1 of 10 rows (10.0%) are unreadable" in done.stderr
    refused(
        sft_dpo("data", str(tmp_path / "a.jsonl"), "--out", "out", "--format", "prefrence"),
        "--format: there is no 'prefrence'; did you mean 'preference'?",
    )


def test_a_missing_path_is_named_with_the_line_of_the_config(sft_dpo, tiny_settings, write_config):
    tiny_settings["model"]["path"] = "nowhere"
    config = write_config(tiny_settings)
    for command in ("plan", "run"):
        done = sft_dpo(command, str(config))
        refused(done, f"{config}:", ": model.path: model folder nowhere does not exist.")
