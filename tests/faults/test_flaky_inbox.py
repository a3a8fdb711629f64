"""An inbox on a network that fails every third call: nothing is lost or used twice."""

import itertools
import os
import tempfile
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from alignment.config.inbox import InboxConfig
from alignment.data.read import files
from alignment.errors import DataError
from alignment.rounds.inbox import scan
from tests.faults.simulate import History


class Flaky(LocalFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """The local disk as `flaky://`; every third call fails."""

    protocol = "flaky"
    cachable = False
    calls = itertools.count(1)
    failed = 0

    def _call(self):
        if next(Flaky.calls) % 3 == 0:
            Flaky.failed += 1
            raise ConnectionError("the network is unreachable")

    def ls(self, path, detail=False, **options):  # noqa: FBT002 - fsspec's own signature
        self._call()
        return LocalFileSystem().ls(path, detail=detail, **options)

    def info(self, path, **options):
        self._call()
        return LocalFileSystem().info(path, **options)

    def _open(self, path, mode="rb", block_size=None, **options):
        self._call()
        return super()._open(path, mode, block_size, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("flaky://"))

    def unstrip_protocol(self, name):
        return f"flaky://{name}"


@pytest.fixture
def history(monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(files, "RETRY_DELAYS", (0.0, 0.0, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        made = History(0, Path(folder))
        settings = made.config.model_dump(mode="json")
        settings["inbox"] |= {"path": f"flaky://{made.inbox}", "promotion": {"name": "gate"}}
        made.config = type(made.config).model_validate(settings)
        yield made


def test_every_batch_is_used_once_however_often_the_network_fails(history):
    for name in "abc":
        (history.inbox / f"{name}.jsonl").write_text(
            "".join(
                f'{{"prompt": "{name}{n}", "chosen": "y", "rejected": "n"}}\n' for n in range(20)
            )
        )
        os.utime(history.inbox / f"{name}.jsonl", (0, 0))
    before = Flaky.failed
    while history.round() != "no new data":
        history.check()
    used = [batch.digest for opened, _ in history.line.state().history for batch in opened.batches]
    assert len(used) == len(set(used)) == 3
    assert Flaky.failed - before > 5


def test_a_network_that_is_down_is_not_an_empty_inbox(monkeypatch, tmp_path):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(files, "RETRY_DELAYS", ())
    monkeypatch.setattr(Flaky, "calls", itertools.repeat(3))
    with pytest.raises(DataError, match="cannot be read: the network is unreachable"):
        list(scan(InboxConfig(path=f"flaky://{tmp_path}")))
