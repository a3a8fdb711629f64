"""A training that tests stop midway: the SFT of a run of sft-dpo/cpu, which takes minutes."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from alignment.config.file import load
from alignment.pipeline.chain_builder import chain
from tests.prefect_service import Service, overrides, wait_for

CHANGES = ("sft.training.max_steps=20000", "sft.training.save_every=20000")
"""No checkpoint is due before the end, so the only one is saved by a stop."""


@dataclass(frozen=True)
class LongTraining:
    """A training on a real service; tests and worker read the same config."""

    service: Service
    config: Path

    def start(self) -> str:
        """Start a run that will reach the training; returns its id."""
        return self.service.start("sft-dpo/cpu", f"config={self.config}", overrides(*CHANGES))

    def check_progress(self, *, beyond: int, seconds: float = 300) -> None:
        """Assert that training gets beyond this step in time, and that no step was done twice."""
        done = wait_for(
            f"a step after {beyond}",
            lambda: steps if max(steps := self.steps(), default=0) > beyond else None,
            seconds=seconds,
            log=self.service.folder / "log",
        )
        assert done == sorted(set(done)), "no step was done twice"
        assert self.processes()

    def check_exit(self, asked: float, record: Callable[[str, object], None]) -> None:
        """Assert that it saves within 30 s of the request to stop, and exits within 5 s of that."""
        ended = wait_for(
            "the end of the process",
            lambda: None if self.processes() else time.time(),
            seconds=300,
            log=self.service.folder / "log",
        )
        saved = max(self.checkpoints())
        record("seconds from the request to the checkpoint", saved - asked)
        record("seconds from the checkpoint to the end of the process", ended - saved)
        assert 0 < saved - asked <= 30
        assert ended - saved <= 5

    def steps(self) -> list[int]:
        """The steps done by all attempts, in order."""
        marks = self._work / "progress.jsonl"
        lines = marks.read_text().splitlines() if marks.exists() else []
        return [json.loads(line)["done"] for line in lines]

    def checkpoints(self) -> list[float]:
        """When each checkpoint in the work folder was committed."""
        return [path.stat().st_mtime for path in self._work.glob("checkpoints/step-*/digests.json")]

    def processes(self) -> list[int]:
        """The training processes: those whose output goes to the step's log in the store."""
        log = self.service.store / "logs" / f"{self._key}.log"
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/fd/1").readlink() == log:
                    found.append(pid)
        return found

    @cached_property
    def _key(self) -> str:
        sft = chain(load(self.config, list(CHANGES))).sft
        assert sft is not None
        return sft.key

    @property
    def _work(self) -> Path:
        return self.service.store / "work" / self._key
