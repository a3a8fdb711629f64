"""`sft-dpo init` reads real files and writes a configuration that passes the doctor."""

import json
import os
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from tests.inbox import drop, rows
from tests.prefect_service import ROOT


@pytest.fixture
def sft_dpo(tmp_path):
    def run(*words, cwd=tmp_path):
        return subprocess.run(
            [sys.executable, "-m", "sft_dpo", *map(str, words)],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    return run


def test_a_config_for_pairs_and_chats_passes_the_doctor(
    sft_dpo, called, tiny_model_folder, tmp_path
):
    drop(tmp_path / "pairs.jsonl", rows(0, 400))
    chats = [
        {
            "messages": [
                {"role": r, "content": f"{t} {n}"}
                for r, t in (("user", "Who?"), ("assistant", "I"))
            ]
        }
        for n in range(200)
    ]
    drop(tmp_path / "mine" / "chats.jsonl", chats)
    words = ("--model", tiny_model_folder, "--card", "cpu")
    data = ("--data", "pairs.jsonl", "--data", "mine/chats.jsonl")
    done = sft_dpo("init", "mine", *words, *data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next: cd mine && sft-dpo doctor run.yaml"
    text = (tmp_path / "mine" / "run.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=config.schema.json\n")
    written = YAML(typ="safe").load(text)
    assert written["sft"]["data"]["sources"] == [{"name": "file", "path": "chats.jsonl"}]
    assert written["rounds"][0]["data"]["sources"][0]["path"] == str(tmp_path / "pairs.jsonl")
    assert written["gate"] == {"name": "anchored", "margin": 0.03}
    json.loads((tmp_path / "mine" / "config.schema.json").read_text())
    checked = called("doctor", "run.yaml", cwd=tmp_path / "mine")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert set(checked.stderr.splitlines()) == {"preparing conversations", "preparing pairs-1"}
    again = sft_dpo("init", "mine", *words, *data)
    assert (again.returncode, "run.yaml exists" in again.stderr) == (2, True)


def test_what_is_missing_is_asked_for_or_named(sft_dpo, tmp_path):
    drop(
        tmp_path / "chats.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": "Who?"},
                    {"role": "assistant", "content": "I"},
                ]
            }
        ],
    )
    assert sft_dpo("init").stderr.startswith("--model is missing.")
    words = ("init", "--model", "a/b", "--data", "chats.jsonl", "--card")
    assert "choose one of a100-40gb" in sft_dpo(*words, "rtx").stderr
    done = sft_dpo(*words, "a100-40gb")
    assert done.returncode == 2
    assert "no file has preference pairs" in done.stderr
    assert "`sft-dpo data FILE --out DIR --column THEIRS=prompt" in done.stderr
    assert not (tmp_path / "run.yaml").exists()


def test_what_cannot_be_written_ends_in_one_line_and_leaves_nothing(
    sft_dpo, tiny_model_folder, tmp_path
):
    drop(tmp_path / "pairs.jsonl", rows(0, 40))
    words = ("--model", tiny_model_folder, "--card", "cpu", "--data", "pairs.jsonl")
    file = sft_dpo("init", "pairs.jsonl", *words)
    assert (file.returncode, file.stderr.count("\n")) == (2, 1)
    assert "cannot write to pairs.jsonl" in file.stderr
    name = sft_dpo("init", "mine", *words, "--name", "my run/../x")
    assert name.returncode == 2
    assert not (tmp_path / "mine" / "run.yaml").exists()
    model = sft_dpo("init", "mine", "--model", "/nope", *words[2:])
    assert (model.returncode, "no such folder" in model.stderr) == (2, True)


def test_a_workflow_can_be_added_to_a_configuration(sft_dpo, tiny_model_folder, tmp_path):
    drop(tmp_path / "pairs.jsonl", rows(0, 40))
    words = ("--model", tiny_model_folder, "--card", "cpu", "--data", "pairs.jsonl")
    assert sft_dpo("init", ".", *words).returncode == 0
    added = sft_dpo("init", ".", "--ci")
    assert added.returncode == 0, added.stderr
    assert list((tmp_path / ".github" / "workflows").iterdir())


CHAT = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I"}]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (
            (),
            {"stage": "sft", "finetuning_type": "lora", "dataset": "mine", "dataset_dir": "."}
            | {"per_device_train_batch_size": 2, "model_name_or_path": "MODEL", "cutoff_len": 256},
        ),
        pytest.param(
            (),
            {"base_model": "MODEL", "adapter": "lora", "rl": "dpo", "sequence_len": 256}
            | {"datasets": [{"path": "pairs.jsonl", "type": "chat_template.default"}]}
            | {"lora_r": 4, "learning_rate": 1e-4, "micro_batch_size": 4},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--stage", "dpo"),
            {"model_name_or_path": "MODEL", "use_peft": True, "max_length": 256, "lora_r": 4}
            | {"datasets": [{"path": "json", "data_files": "pairs.jsonl"}]},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["llama-factory", "axolotl", "trl"],
)
def test_a_converted_config_passes_the_doctor(
    sft_dpo, called, tiny_model_folder, tmp_path, words, keys
):
    drop(tmp_path / "pairs.jsonl", rows(0, 400))
    chats = [
        {"conversations": [turn | {"value": f"{turn['value']} {n}"} for turn in CHAT]}
        for n in range(200)
    ]
    drop(tmp_path / "chats.jsonl", chats)
    info = {"mine": {"file_name": "chats.jsonl", "formatting": "sharegpt"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    text = json.dumps(keys | {"unheard_of": 7}).replace("MODEL", str(tiny_model_folder))
    (tmp_path / "theirs.yaml").write_text(text)  # JSON is YAML
    made = sft_dpo("init", "--from", "theirs.yaml", "--card", "cpu", *words)
    assert made.returncode == 0, made.stderr
    assert "unheard_of: 7: no equal here" in made.stderr
    assert "#   unheard_of: 7: no equal here" in (tmp_path / "run.yaml").read_text()
    checked = called("doctor", "run.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
