"""The wheel, installed into an empty environment with an empty home, works from an empty folder.

The libraries come from the environment of the tests, by one line in its site-packages.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

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
        "practice\n"
    )


def test_a_whole_run_works_anywhere(sft_dpo, tiny_settings, write_config, tmp_path):
    """With processes of its own: the temporary server, the fork server, the children."""
    config = write_config(tiny_settings)
    done = sft_dpo("run", str(config), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'store/reports/tiny.html'}"
