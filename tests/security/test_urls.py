"""No part of a URL that may be a credential is shown or stored, however strangely it is written."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alignment.config.file import load
from alignment.data.build.ingest import IngestOptions, ingest
from alignment.data.read.files import SUFFIXES, without_secret
from alignment.data.read.sources import FileSource
from alignment.errors import AlignmentError, ConfigError, DataError, ModelError
from alignment.models.folder import check_weights
from alignment.store.places import EXPECTED
from alignment.urls import bare_urls, holds_more, storable
from flows.cli import main
from tests.needs_key import serving

SECRET = "hunter2hunter2"
JUNK = st.text("aZ1/:@?#%&=.,;+~-_()[]{}'\"$\\*", max_size=12)
WEB = ("http", "https", "HTTPS", "ftp", "sftp", "postgresql+asyncpg", "unknown")
STORAGES = ("s3", "gs", "az", "memory", "hf", "file", "zip")


def stored(url):
    """What is kept of a source, or what is said where it is refused (`load`, `ingest`)."""
    try:
        source = FileSource(path=url)
    except ValidationError as refused:
        return str([one["ctx"]["error"] for one in refused.errors()])
    return source.model_dump_json() + source.label + storable(url)


def is_nowhere(url):
    """Whether neither an error nor what is stored shows the secret."""
    sentences = (f"cannot read {url}.", f"('{url}', 403)", f"--set 'path={url}': no")
    return SECRET not in "".join((*map(str, map(AlignmentError, sentences)), stored(url)))


@given(scheme=st.sampled_from(WEB), before=JUNK, after=JUNK, path=JUNK)
def test_what_comes_before_an_at_sign_is_refused_and_shown_nowhere(scheme, before, after, path):
    url = f"{scheme}://{before}{SECRET}{after}@example.test/{path}"
    assert holds_more(url)
    assert is_nowhere(url)


@given(scheme=st.sampled_from(("s3", "gs", "az")), before=JUNK, after=JUNK)
def test_neither_are_the_keys_of_a_storage(scheme, before, after):
    assert is_nowhere(f"{scheme}://AKIA{before}{SECRET}{after}@bucket/a.jsonl")
    assert is_nowhere(f"{scheme}://key:{before}{SECRET}{after}@bucket/a.jsonl")


@given(
    scheme=st.sampled_from((*WEB, *STORAGES)),
    mark=st.sampled_from(("?", "#", "%3F", "%3f", "?part-?")),
    before=JUNK,
    after=JUNK,
)
def test_what_comes_after_a_question_mark_or_hash_is_shown_nowhere(scheme, mark, before, after):
    assert is_nowhere(f"{scheme}://example.test/a.jsonl{mark}{before}{SECRET}{after}Z")


@pytest.mark.parametrize(
    "url",
    [
        f"https://anna:1234/{SECRET}@example.test/a.jsonl",
        f"https://{SECRET[:7]}/{SECRET}@example.test",
        f"https://first.last:12/{SECRET}@example.test/a.jsonl",
        f"https://anna%3A{SECRET}%40example.test/a.jsonl",
        f"https://anna:x::https://{SECRET}@example.test/a.jsonl",
        f"https:/anna:{SECRET}@example.test/a.jsonl",
        f"s3:/AKIA:{SECRET}@bucket/a.jsonl",
        f"https:\\\\anna:{SECRET}@example.test/a.jsonl",
        f"https://example.test/a.jsonl?mail=a@b.test&sig={SECRET}",
        f"hf://{SECRET}@datasets/owner/name/a.jsonl",
        f"zip://a.jsonl::https://anna:1/{SECRET}@example.test/a.zip",
        f"s3://bucket/a.jsonl?sig%3D{SECRET}",
        f"s3://bucket/a.jsonl?{SECRET}",
    ],
)
def test_a_url_that_a_browser_would_read_otherwise(url):
    assert holds_more(url)
    assert is_nowhere(url)


def test_a_password_with_a_space_is_refused_although_a_space_ends_a_url_in_a_sentence():
    assert holds_more(f"https://anna:1 {SECRET}@example.test/a.jsonl")
    assert str(AlignmentError(f"see https://anna:{SECRET} x@y")) == "see https://... x@y"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_question_mark_in_a_pattern_of_files_is_a_wildcard(suffix):
    for pattern in (f"s3://bucket/part-?{suffix}", f"gs://bucket/2026-??/*/part-?.[ab]{suffix}"):
        assert without_secret(pattern) == storable(pattern) == bare_urls(pattern) == pattern
        assert str(AlignmentError(f"{pattern}:12: bad")) == f"{pattern}:12: bad"


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "https://a" * 40_000,
        "https://" + "%3f" * 100_000,
        "zip://a::" * 40_000,
        "https://" + ":1" * 100_000,
    ],
)
def test_a_long_text_takes_no_longer_than_its_length(text):
    """A second for a text whose square would take a quarter of an hour."""
    assert len(bare_urls(text)) <= len(text)


def test_an_at_sign_in_a_path_is_written_as_percent_40(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    (served / "pairs@v1.jsonl").write_text(json.dumps(row) + "\n")
    with serving(served, f"sig={SECRET}") as address:
        url = f"{address}/pairs%40v1.jsonl?sig={SECRET}"
        report = ingest([url], IngestOptions(), out=tmp_path / "out", on_progress=lambda *_: None)
    assert report.files[0].kept == 1
    assert report.files[0].file.startswith(f"{address}/pairs%40v1.jsonl?sha256=")


def test_a_file_in_a_folder_whose_name_reads_as_a_url_with_more_is_named(tmp_path):
    (tmp_path / "a#b.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"cannot read a#b\.jsonl .* rename it"):
        ingest([f"file://{tmp_path}"], IngestOptions(), out=tmp_path, on_progress=lambda *_: None)


@pytest.mark.parametrize(
    "words",
    [
        ("show", "--store"),
        ("data", "pairs.jsonl", "--out"),
        ("export", "champion", "--to"),
        ("promote", "champion", "--store"),
    ],
)
@pytest.mark.parametrize("scheme", ["https", "s3", "my-own"])
def test_a_url_is_no_local_folder_and_is_not_repeated(words, scheme, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sft-dpo", *words, f"{scheme}://anna:{SECRET}@example.test/x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = "".join(capsys.readouterr())
    expected = EXPECTED if "--store" in words else "expected a local folder, not a URL"
    assert said == f"{expected}\n"


@pytest.mark.parametrize("scheme", ["https", "s3", "my-own"])
def test_artifacts_are_not_stored_at_any_url(tiny_settings, write_config, scheme):
    tiny_settings["store"] = f"{scheme}://anna:{SECRET}@example.test/x"
    with pytest.raises(ConfigError, match="store: expected a folder, or s3://") as caught:
        load(write_config(tiny_settings))
    assert SECRET not in str(caught.value)


def test_a_model_is_not_read_from_a_url():
    with pytest.raises(ModelError, match="a local one, not a URL") as caught:
        check_weights(Path(f"my-own://anna:{SECRET}@example.test/model"))
    assert SECRET not in str(caught.value)


def test_a_variable_in_a_url_is_left_out_of_a_sentence_with_its_brace():
    error = AlignmentError("https://example.test/a.jsonl?${QUERY}: write it as ?${NAME}")
    assert str(error) == "https://example.test/a.jsonl: write it as ?${NAME}"
