"""Secrets are refused in URLs: they belong in environment variables or Prefect's Secret blocks.

`tests/deployments/test_secrets.py` checks on whole runs that a planted secret appears nowhere.
"""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from alignment.config.file import load
from alignment.data.build.ingest import IngestOptions, ingest
from alignment.data.read.files import without_secret
from alignment.data.read.sources import FileSource
from alignment.errors import AlignmentError, ConfigError, DataError

SECRET = "hunter2hunter2"
WITH_SECRET = (
    f"https://anna:{SECRET}@example.test/pairs.jsonl",
    f"s3://AKIA0123:{SECRET}@bucket/inbox",
    f"https://example.test/pairs.jsonl?token={SECRET}",
    f"https://example.test/pairs.jsonl?a=1&X-Amz-Signature={SECRET}",
    f"https://example.test/pairs.jsonl?api_key={SECRET}",
    f"https://account.blob.core.windows.net/c/pairs.jsonl?sv=2024&sig={SECRET}",
    f"https://{SECRET}@example.test/pairs.jsonl",
    f"https://anna:a/{SECRET}@example.test/pairs.jsonl",
    f"https://example.test/pairs.jsonl?code={SECRET}",
    f"https://example.test/pairs.jsonl?%74oken={SECRET}",
    f"https://example.test/pairs.jsonl?a=x::{SECRET}",
    f"https://example.test?{SECRET}",
    f"https://example.test/pairs.jsonl#{SECRET}",
    f"s3://bucket/pairs.jsonl?auth={SECRET}",
    f"zip://pairs.jsonl::https://example.test/pairs.zip?key={SECRET}",
)


@pytest.mark.parametrize("url", WITH_SECRET)
@pytest.mark.parametrize("key", ["inbox.path", "rounds.0.data.sources.0.path"])
@pytest.mark.parametrize("by", ["file", "override"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(tiny_settings, write_config, url, key, by):
    tiny_settings["rounds"][0]["data"]["sources"] = [{"name": "file", "path": "pairs.jsonl"}]
    overrides = [f"{key}={url}"] if by == "override" else []
    if by == "file":
        tiny_settings["inbox"] = {"path": url if key == "inbox.path" else "inbox"}
        if key != "inbox.path":
            tiny_settings["rounds"][0]["data"]["sources"][0]["path"] = url
    with pytest.raises(ConfigError, match=f"{key}: a password or token in a URL") as caught:
        load(write_config(tiny_settings), overrides)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", WITH_SECRET)
def test_the_data_command_refuses_one_too(tmp_path, url):
    with pytest.raises(DataError, match="a password or token in a URL") as caught:
        ingest([url], IngestOptions(), out=tmp_path, on_progress=lambda *_: None)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", WITH_SECRET)
def test_no_error_shows_more_of_a_url_than_its_place(url):
    for sentence in (f"cannot read {url}.", f"('{url}', 403)", f"--set 'path={url}': no"):
        assert SECRET not in str(AlignmentError(sentence))
    assert str(AlignmentError("see 'https://example.test/a?b=c', please")) == (
        "see 'https://example.test/a', please"
    )


def test_an_override_with_a_secret_is_not_repeated_for_another_mistake(tiny_settings, write_config):
    for key in ("inbox.nonsense", "seed", "rounds.9.name"):
        with pytest.raises(ConfigError) as caught:
            load(write_config(tiny_settings), [f"{key}=https://example.test/x?sig={SECRET}"])
        assert SECRET not in str(caught.value)


class NeedsKey(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.path, _, query = self.path.partition("?")
        super().do_GET() if query == f"sig={SECRET}" else self.send_error(403)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a server that wants a secret in the query, of a folder with some pairs."""
    folder = tmp_path / "served"
    folder.mkdir()
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    rows = [row | {"prompt": f"Why {number}?"} for number in range(3)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(NeedsKey, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/pairs.jsonl"
        server.shutdown()


def test_a_query_comes_from_the_environment_and_is_neither_stored_nor_shown(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("PAIRS_QUERY", f"sig={SECRET}")
    url = f"{server}?${{PAIRS_QUERY}}"
    report = ingest([url], IngestOptions(), out=tmp_path / "out", on_progress=lambda *_: None)
    assert sum(file.kept for file in report.files) == 3
    assert not [path for path in (tmp_path / "out").rglob("*") if SECRET in path.read_text()]
    monkeypatch.setenv("PAIRS_QUERY", f"sig={SECRET}-but-wrong")
    with pytest.raises(DataError, match=r"pairs\.jsonl") as caught:
        FileSource(path=url).digest()
    assert SECRET not in str(caught.value)
    monkeypatch.delenv("PAIRS_QUERY")
    with pytest.raises(DataError, match=r"variable in \$\{PAIRS_QUERY\} is not set"):
        FileSource(path=url).digest()


@pytest.mark.parametrize(
    "path",
    [
        "inbox",
        "s3://bucket/inbox/batch-?.jsonl",
        "s3://bucket/user@date/a.jsonl",
        "https://example.test:8080/a.jsonl?${QUERY}",
        "zip://a.jsonl::https://example.test/a.zip",
        "a:b@c",
        "C:/x@y",
    ],
)
def test_a_path_without_a_secret_is_unchanged(path):
    assert without_secret(path) == path
