"""An installation without the extra `train`: what it cannot do names the extra, and its source."""

import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from alignment.extras import how_to_install
from tests.inbox import drop, rows
from tests.prefect_service import ROOT

ABSENT = ("torch", "transformers", "datasets", "pyarrow", "aiohttp", "requests", "prefect")
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
