"""A whole run that reads its rows from a URL with a secret in the query."""

import json

import pytest

from tests import needs_key
from tests.inbox import line_settings

COMMAND = ("-c", "from flows.cli import main; main()")
SECRET = "hunter2hunter2"


@pytest.mark.slow
def test_the_query_of_a_url_is_used_by_a_run_and_is_nowhere_afterwards(
    server, tiny_settings, write_config, tmp_path
):
    served, query = tmp_path / "served", f"sig={SECRET}"
    served.mkdir()
    settings = line_settings(tiny_settings, tmp_path)
    (tmp_path / "held-out.jsonl").rename(served / "held-out.jsonl")
    with needs_key.serving(served, query) as address:
        source = settings["evaluation"]["data"]["sources"][0]
        source["path"] = f"{address}/held-out.jsonl?{query}"
        config = str(write_config(settings))
        said = [server.run(*COMMAND, *words, config, seconds=900) for words in (
            ["plan"], ["plan", "--json"], ["doctor", "--json"], ["run"], ["run"],
        )]  # fmt: skip
        source["path"] += "-but-wrong"
        said.append(server.run(*COMMAND, "plan", str(write_config(settings)), seconds=900))
        codes = [one.returncode for one in said]
        assert codes in ([0, 0, 0, 0, 0, 2], [0, 0, 1, 0, 0, 2]), said[-1].stderr + said[3].stderr
    assert f"{address}/held-out.jsonl?sha256=" in said[1].stdout
    assert "held-out.jsonl cannot be read" in said[-1].stderr
    (tmp_path / "said.txt").write_text(json.dumps([one.stdout + one.stderr for one in said]))
    (tmp_path / "tiny.yaml").unlink()
    for folder in (tmp_path, server.folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
