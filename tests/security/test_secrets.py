"""Secrets are refused in URLs: they belong in environment variables or Prefect's Secret blocks.

`tests/deployments/test_secrets.py` checks on whole runs that a planted secret appears nowhere.
"""

import pytest

from alignment.config.file import load
from alignment.data.build.ingest import IngestOptions, ingest
from alignment.data.read.files import without_secret
from alignment.errors import ConfigError, DataError

SECRET = "hunter2hunter2"
WITH_SECRET = (
    f"https://anna:{SECRET}@example.test/pairs.jsonl",
    f"s3://AKIA0123:{SECRET}@bucket/inbox",
    f"https://example.test/pairs.jsonl?token={SECRET}",
    f"https://example.test/pairs.jsonl?a=1&X-Amz-Signature={SECRET}",
    f"https://example.test/pairs.jsonl?api_key={SECRET}",
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


@pytest.mark.parametrize(
    "path",
    ["inbox", "s3://bucket/inbox", "https://example.test/a.jsonl?page=2", "a:b@c", "C:/x@y"],
)
def test_a_path_without_a_secret_is_unchanged(path):
    assert without_secret(path) == path
