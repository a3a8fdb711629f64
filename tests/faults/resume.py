"""Measures the time lost by a kill on a real model: `python -m tests.faults.resume`.

Runs the preset `practice` (SmolLM2, 135 million parameters) from the command line. SFT saves a
checkpoint every four steps; the training process is killed just before the second one, the worst
moment. Then the same command runs again. The lost time is from the kill until training has caught
up: shutdown, restart, and the repeated steps. The promise is at most one checkpoint interval plus
60 seconds.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from alignment.config.file import load
from alignment.config.pipeline import TrainedSft
from flows.presets import PRESETS

CONFIG = PRESETS / "practice.yaml"
SMALLER = ("rounds=[]", "control=null")
"""Nothing after SFT is needed."""


def marks(store: Path) -> list[tuple[int, float]]:
    """Step and time of each mark of the training so far."""
    lines = [line for path in store.glob("work/sft-*/progress.jsonl") for line in path.open()]
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(mark["done"], mark["time"]) for mark in found if mark["phase"] == "training"]


def await_step(
    store: Path, step: int, *, since: float, process: "subprocess.Popen[bytes]"
) -> float:
    """Wait until a step is done after the time `since`; returns when that was."""
    while True:
        times = [at for done, at in marks(store) if done == step and at > since]
        if times:
            return times[0]
        assert process.poll() is None, "the run ended"
        time.sleep(0.05)


def kill_trainer(store: Path) -> None:
    """Kill the training process: the one whose output goes to the SFT log."""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            output = Path(f"/proc/{process.pid}/fd/1").readlink()
            if output.parent == store / "logs" and output.name.startswith("sft-"):
                process.kill()


@contextlib.contextmanager
def typed(store: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """`sft-dpo run` in its own process group, which is killed at the end of the block."""
    code = "from flows.cli import main; main()"
    changes = [word for value in (f"store={store}", *SMALLER) for word in ("--set", value)]
    command = [sys.executable, "-c", code, "run", str(CONFIG), *changes]
    process = subprocess.Popen(command, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    """Kill, resume and print the lost time; returns 1 if it exceeds the promise."""
    settings = load(CONFIG).sft
    assert isinstance(settings, TrainedSft)
    every = settings.training.save_every
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        store, began = Path(folder), time.time()
        with typed(store) as process:
            first = await_step(store, every, since=began, process=process)
            last = await_step(store, 2 * every - 1, since=began, process=process)
            killed = time.time()
            kill_trainer(store)
            assert process.wait() == 75, f"the run ended with {process.returncode}"
        with typed(store) as process:
            back = await_step(store, 2 * every - 1, since=killed, process=process)
        again = [done for done, at in marks(store) if at > killed]
    interval = every * (last - first) / (every - 1)
    lost, twice = back - killed, len([step for step in again if step < 2 * every])
    assert min(again) == every + 1, f"it resumed from step {min(again)}"
    print(
        f"killed after step {2 * every - 1}, {twice} steps done twice; an interval of {every} "
        f"takes {interval:.0f} s; {lost:.0f} s until it had caught up, of which "
        f"{lost - (last - first):.0f} s without training; promised: {interval + 60:.0f} s"
    )
    within = lost <= interval + 60
    print(f"a kill in the SFT of a real model: tried 1, lost {int(not within)}, {lost:.0f} s")
    return int(not within)


if __name__ == "__main__":
    sys.exit(main())
