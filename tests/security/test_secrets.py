"""Secrets are refused in URLs: they belong in environment variables or Prefect's Secret blocks.

`tests/deployments/test_secrets.py` checks on whole runs that a planted secret appears nowhere.
"""

import json
import re

import pytest

from alignment.config.file import load
from alignment.data.build.ingest import IngestOptions, ingest
from alignment.data.build.settings import PairSetConfig
from alignment.data.read.files import without_secret
from alignment.data.read.sources import FileSource
from alignment.errors import AlignmentError, ConfigError, DataError
from tests.needs_key import serving

SECRET = "hunter2hunter2"
REFUSED = (
    f"https://anna:{SECRET}@example.test/pairs.jsonl",
    f"s3://AKIA0123:{SECRET}@bucket/inbox",
    f"https://{SECRET}@example.test/pairs.jsonl",
    f"https://anna:a/{SECRET}@example.test/pairs.jsonl",
    f"https://anna:a?{SECRET}@example.test/pairs.jsonl",
    f"https://example.test/pairs.jsonl#{SECRET}",
    f"https://example.test/pairs.jsonl?a=b#{SECRET}",
)
QUERIES = (
    f"https://example.test/pairs.jsonl?token={SECRET}",
    f"https://example.test/pairs.jsonl?a=1&X-Amz-Signature={SECRET}",
    f"https://example.test/pairs.jsonl?api_key={SECRET}",
    f"https://account.blob.core.windows.net/c/pairs.jsonl?sv=2024&sig={SECRET}",
    f"https://example.test/pairs.jsonl?code={SECRET}",
    f"https://example.test/pairs.jsonl?%74oken={SECRET}",
    f"https://example.test/pairs.jsonl?a=x::{SECRET}",
    f"https://example.test?{SECRET}",
    f"s3://bucket/pairs.jsonl?auth={SECRET}",
    f"zip://pairs.jsonl::https://example.test/pairs.zip?key={SECRET}",
)
WITH_SECRET = (*REFUSED, *QUERIES)
SOURCE = "rounds.0.data.sources.0.path"


def with_source(settings, path):
    settings["rounds"][0]["data"]["sources"] = [{"name": "file", "path": path}]
    return settings


@pytest.mark.parametrize("url", REFUSED)
@pytest.mark.parametrize("key", ["inbox.path", SOURCE])
def test_a_secret_in_a_url_is_refused_and_not_repeated(tiny_settings, write_config, url, key):
    with_source(tiny_settings, url if key == SOURCE else "pairs.jsonl")
    tiny_settings["inbox"] = {"path": url if key == "inbox.path" else "inbox"}
    with pytest.raises(ConfigError, match=f"{key}: a password or token in a URL") as caught:
        load(write_config(tiny_settings))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", WITH_SECRET)
@pytest.mark.parametrize("key", ["inbox.path", SOURCE])
def test_a_change_of_the_config_has_none_because_prefect_stores_it(
    tiny_settings, write_config, url, key
):
    config = write_config(with_source(tiny_settings, "pairs.jsonl"))
    for value in (url, f"[{{any: '{url}'}}]"):
        with pytest.raises(ConfigError, match=f"{key}: a password or token in a URL") as caught:
            load(config, [f"{key}={value}"])
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", QUERIES)
def test_an_inbox_has_no_query_because_its_files_would_not_have_it(
    tiny_settings, write_config, url
):
    tiny_settings["inbox"] = {"path": url}
    with pytest.raises(ConfigError, match=r"inbox.path: a password or token") as caught:
        load(write_config(tiny_settings))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", QUERIES)
def test_a_query_is_stored_as_a_digest(tiny_settings, write_config, url):
    config = load(write_config(with_source(tiny_settings, url)))
    data = config.rounds[0].data
    assert isinstance(data, PairSetConfig)
    source = data.sources[0]
    assert isinstance(source, FileSource)
    assert source.path == url
    assert SECRET not in config.model_dump_json() + str(config.model_dump()) + source.label
    assert re.fullmatch(r".*\?sha256=[0-9a-f]{16}", source.model_dump()["path"])
    stored = FileSource.model_validate(source.model_dump())
    assert stored.model_dump() == source.model_dump(), "the key of a rebuilt step stays"
    with pytest.raises(DataError, match="its query is not stored"):
        stored.digest()


@pytest.mark.parametrize("url", REFUSED)
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


@pytest.fixture
def server(tmp_path):
    """The URL of a file with some pairs, whose server wants a secret in the query."""
    folder = tmp_path / "served"
    folder.mkdir()
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    rows = [row | {"prompt": f"Why {number}?"} for number in range(3)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(folder, f"sig={SECRET}") as address:
        yield f"{address}/pairs.jsonl"


def test_a_query_in_a_config_is_used_and_neither_stored_nor_shown(server, tmp_path):
    url = f"{server}?sig={SECRET}"
    report = ingest([url], IngestOptions(), out=tmp_path / "out", on_progress=lambda *_: None)
    assert sum(file.kept for file in report.files) == 3
    assert report.files[0].file.startswith(f"{server}?sha256=")
    assert not [path for path in (tmp_path / "out").rglob("*") if SECRET in path.read_text()]
    source = FileSource(path=url)
    assert [row.file for row in source.read()] == [source.label] * 3
    with pytest.raises(DataError, match=r"pairs\.jsonl") as caught:
        FileSource(path=f"{url}-but-wrong").digest()
    assert SECRET not in str(caught.value)


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
