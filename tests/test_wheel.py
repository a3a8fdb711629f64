"""The wheel, installed into an empty environment with an empty home, works from an empty folder.

The libraries come from the environment of the tests, by one line in its site-packages.
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from ruamel.yaml import YAML

from tests.inbox import drop, rows
from tests.prefect_service import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def sft_dpo(wheel, tmp_path_factory):
    """A function that runs the installed command in a folder, with nothing of this checkout."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder / "env")
    (site,) = folder.glob("env/lib/*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "home").mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}

    def run(*words, cwd):
        return subprocess.run(
            [str(folder / "env/bin/python"), "-m", "sft_dpo", *words],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_one_name_is_installed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"sft_dpo"}


def test_version_and_presets_work_anywhere(sft_dpo, tmp_path):
    assert sft_dpo("--version", cwd=tmp_path).stdout.startswith("sft-dpo 0.")
    planned = sft_dpo("plan", "practice", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("RUN     base ")
    wrong = sft_dpo("run", "practise", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "there is no file practise, and no preset of that name; presets: a100, a100-stack, hh, "
        "practice. Did you mean practice?\n"
    )
    moved = sft_dpo("plan", "deployments/configs/practice.yaml", cwd=tmp_path)
    assert moved.stderr.endswith("for the preset of that name, write practice\n")


def test_a_whole_run_works_anywhere(sft_dpo, tiny_settings, write_config, tmp_path):
    """With processes of its own: the temporary server, the fork server, the children."""
    config = write_config(tiny_settings)
    done = sft_dpo("run", str(config), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'store/reports/tiny.html'}"


def test_the_first_hour_works_in_the_order_of_the_documentation(
    sft_dpo, tiny_model_folder, tmp_path
):
    """What a new user does with a file and a model of their own, in an empty home."""
    drop(tmp_path / "pairs.jsonl", rows(0, 120))

    def done(*words):
        ended = sft_dpo(*map(str, words), cwd=tmp_path)
        assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    own = ("--name", "mine", "--model", tiny_model_folder, "--data", "pairs.jsonl", "--card", "cpu")
    assert "next: sft-dpo doctor run.yaml" in done("init", *own)
    assert "This run can start" in done("doctor", "run.yaml")
    assert done("plan", "run.yaml").startswith("RUN     base ")
    assert "report: runs/reports/mine.html" in done("run", "run.yaml", "--set", "dpo.max_steps=1")
    assert done("status") == "nothing is being built in runs\n"
    done("run", "run.yaml", "--set", "dpo.max_steps=2")
    newer, older = (line.split()[0] for line in done("runs").splitlines() if "mine, seed" in line)
    compared = done("compare", f"{older}/round-1", f"{newer}/round-1")
    assert "dpo.max_steps" in compared
    assert "Compared on the same" in compared
    assert "# my-org/mine" in done("publish", f"{newer}/round-1", "--to", "my-org/mine")
    assert "artifacts: dpo" in done("du")
    assert "nothing to remove in runs" in done("gc")
    assert "freed" in done("gc", "--older-than", "0", "--delete")
    assert done("show", f"{newer}/round-1", "--lineage").startswith("Ancestry of merge-dpo-1")


def test_the_commands_of_the_readme_run_in_the_order_printed(sft_dpo, tiny_settings, tmp_path):
    """With a tiny configuration in the place of the preset that they name."""
    pairs = {"sources": [{"name": "practice", "part": "round-3", "rows": 16}]}
    tiny_settings["rounds"] += [{"data": pairs}]
    tiny_settings |= {"name": "practice", "store": "runs", "control": None}
    tiny_settings["inbox"] = {"path": "inbox", "line": "practice"}
    with (tmp_path / "own.yaml").open("w") as stream:
        YAML(typ="safe", pure=True).dump(tiny_settings, stream)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(sft-dpo doctor .*?)```", text, re.DOTALL)
    for line in block.splitlines():
        command, *words = shlex.split(line)[1:]
        if command in ("doctor", "plan", "run", "round"):
            words[0] = "own.yaml"
        done = sft_dpo(command, *words, cwd=tmp_path)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
