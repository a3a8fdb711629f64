"""An installation without the extra `train`: what it cannot do names the extra, and its source."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from packaging.requirements import Requirement

from alignment.extras import how_to_install
from tests.inbox import drop, rows
from tests.prefect_service import ROOT

ABSENT = (
    *("torch", "transformers", "trl", "peft", "datasets", "huggingface_hub", "httpx", "prefect"),
    *("pyarrow", "pandas", "aiohttp", "requests", "matplotlib", "scipy"),
)
LIGHT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules.update(dict.fromkeys({ABSENT!r}))
from flows.cli import main
main()
"""


def light(*words):
    return subprocess.run(
        [sys.executable, "-c", LIGHT, *map(str, words)], capture_output=True, text=True
    )


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(0, 4)), path)
    return path


def test_parquet_and_urls_name_the_extra_and_how_to_get_it(parquet, tmp_path):
    for place in (parquet, "http://127.0.0.1:9/pairs.jsonl"):
        done = light("data", place, "--out", tmp_path / "out")
        assert done.returncode == 2
        assert "needs the extra `train`" in done.stderr
        assert done.stderr.strip().endswith(how_to_install("train"))


def test_rows_in_plain_files_need_no_extra(tmp_path):
    file = drop(tmp_path / "pairs.jsonl", rows(0, 8))
    done = light("data", file, "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["kept"] == 8, done.stderr


def test_the_doctor_checks_rows_and_says_what_it_could_not_check(
    tiny_settings, write_config, tmp_path
):
    pairs = rows(0, 20)
    file = drop(tmp_path / "pairs.jsonl", [*pairs, pairs[0], {**pairs[1], "chosen": ""}])
    source = {"name": "file", "path": str(file)}
    tiny_settings["rounds"] = [{"data": {"sources": [source], "held_out_share": 0.2}}]
    config = write_config(tiny_settings)
    checked = light("doctor", config)
    assert checked.returncode == 0, checked.stderr
    said = " ".join(checked.stdout.split())
    assert "1 copies were dropped" in said
    assert how_to_install("train") in said
    (page,) = (tmp_path / "store/reports").glob("*-doctor.html")
    assert "1 copies were dropped" in page.read_text()
    planned = light("plan", config)
    assert planned.returncode == 0, planned.stderr
    assert planned.stderr.endswith(f"not tried; to try it: {how_to_install('train')}\n")


def test_the_old_store_is_looked_at_and_tidied_without_the_extra(old_store):
    store = old_store / "store"
    assert light("show", "gate-1", "--store", store).stdout.startswith("gate-1  gate-")
    assert "kept no evidence" in light("verdict", "gate-1", "--store", store).stderr
    assert "artifacts: stack" in light("du", "--store", store).stdout
    for command in ("runs", "status", "gc"):
        assert light(command, "--store", store).returncode == 0
    revoked = light("revoke", "batch-713b12f7df9f", "--store", store)
    assert revoked.returncode == 0, revoked.stderr


def test_it_takes_less_than_200_mb():
    """The files of what pyproject.toml asks for without extras, and of what these ask for."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found, sizes = [Requirement(one) for one in wanted], {}
    while found:
        one = found.pop()
        if one.name in sizes or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        installed = distribution(one.name)
        files = [Path(str(installed.locate_file(file))) for file in installed.files or ()]
        sizes[one.name] = sum(file.stat().st_size for file in files if file.is_file())
        found += [Requirement(text) for text in installed.requires or ()]
    assert "numpy" in sizes
    assert "torch" not in sizes
    assert sum(sizes.values()) < 200e6


@pytest.mark.parametrize(
    ("noted", "command"),
    [
        ({"url": "file://{here}/a%20b.whl"}, "pip install '{here}/a b.whl[train]'"),
        (
            {"url": "https://host/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'sft-dpo[train] @ git+https://host/r@abc'",
        ),
        ({"url": "file://{here}/gone"}, "pip install 'WHEEL[train]' with the wheel"),
        ({}, "pip install 'WHEEL[train]' with the wheel"),
    ],
)
def test_the_extra_comes_from_where_the_rest_came_from(tmp_path, noted, command):
    """In a folder on the path that says what pip notes beside an installed distribution."""
    (tmp_path / "a b.whl").touch()
    notes = tmp_path / "sft_dpo-9.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: sft-dpo\nVersion: 9\n")
    text = json.dumps(noted).replace("{here}", str(tmp_path))
    (notes / "direct_url.json").write_text(text)
    paths = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
    code = paths + "from alignment.extras import how_to_install; print(how_to_install('train'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(command.replace("{here}", str(tmp_path)))
