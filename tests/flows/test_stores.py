"""Every command that takes a store says in one line that there is none, or that it is a file."""

import pytest
from typer.testing import CliRunner

from alignment.config.file import load
from alignment.errors import UsageError
from flows.cli import app
from tests.inbox import line_settings

BY_FOLDER = (
    "show",
    "show sft",
    "runs",
    "status",
    "verdict gate-1",
    "promote sft",
    "rollback",
    "revoke monday.jsonl",
    "export sft --to exported",
    "chat sft",
)


def refused(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(done.exception, UsageError), done.output
    return str(done.exception)


@pytest.mark.parametrize("command", BY_FOLDER)
def test_a_store_that_is_not_there_or_a_file_is_named(tmp_path, command):
    missing = refused(*command.split(), "--store", tmp_path / "none")
    assert missing.startswith(f"no store {tmp_path / 'none'}. Name its folder with --store")
    file = tmp_path / "file"
    file.touch()
    assert "is a file, not a folder" in refused(*command.split(), "--store", file)


@pytest.mark.parametrize("command", ["plan", "run", "round", "doctor", "inbox", "line adopt"])
def test_a_config_whose_store_is_a_file_is_refused(tmp_path, command, write_config, tiny_settings):
    config = write_config(line_settings(tiny_settings, tmp_path))
    load(config)
    file = tmp_path / "file"
    file.touch()
    message = refused(*command.split(), config, "--set", f"store={file}")
    assert message.startswith(f"the store {file} is a file, not a folder.")
