"""`sft-dpo init` on a terminal: asks again until an answer can be used."""

import os
import pty
import subprocess
import sys

from ruamel.yaml import YAML

from tests.inbox import drop, rows
from tests.prefect_service import ROOT


def test_a_wrong_answer_is_explained_and_asked_again(tiny_model_folder, tmp_path):
    drop(tmp_path / "my pairs.jsonl", rows(0, 20))
    answers = ["/nope", tiny_model_folder, "none.jsonl", "my pairs.jsonl", "", "rtx", "cpu"]
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "sft_dpo", "init", "mine"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(theirs)
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    said, _ = command.communicate(timeout=60)
    os.close(ours)
    assert command.returncode == 0, said
    assert "--model /nope: there is no such folder" in said
    assert "none.jsonl: " in said
    assert "my pairs.jsonl: 20 pairs, preference" in said
    assert "--card 'rtx' is not known" in said
    written = YAML(typ="safe").load(tmp_path / "mine" / "run.yaml")
    assert written["model"]["path"] == str(tiny_model_folder)
