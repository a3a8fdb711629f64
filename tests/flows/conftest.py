"""The command line in the process of the tests: it need not import torch again."""

import gc
import signal
import subprocess
import sys

import pytest

from flows.cli import main


@pytest.fixture
def called(monkeypatch, capsys):
    """A function that runs a command in this process and returns what it printed and its code.

    For what a command says and writes. Exit, signals and a start from nothing are shown by tests
    that start processes.
    """

    def call(*words, cwd=None):
        monkeypatch.setattr(sys, "argv", ["sft-dpo", *map(str, words)])
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = int(ended.value.code or 0)
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    on_interrupt, thresholds = signal.getsignal(signal.SIGINT), gc.get_threshold()
    yield call
    signal.signal(signal.SIGINT, on_interrupt)
    gc.set_threshold(*thresholds)
