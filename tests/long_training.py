"""A training that a test may stop midway: SFT of a run of sft-dpo/cpu that goes on for minutes."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from alignment.config.file import load
from alignment.pipeline.chain import chain
from tests.prefect_service import Service, overrides, wait_for

CHANGES = ("sft.training.max_steps=20000", "sft.training.save_every=20000")
"""No checkpoint is due before the end: the only one there can be is made by a stop."""


@dataclass(frozen=True)
class LongTraining:
    """A training on a real service, from a config that both the tests and the worker can read."""

    service: Service
    config: Path

    def start(self) -> str:
        """The id of a run that will come to it."""
        return self.service.start("sft-dpo/cpu", f"config={self.config}", overrides(*CHANGES))

    def check_goes_on(self, *, beyond: int, seconds: float = 90) -> None:
        """More steps than so many are done in time, by all attempts together and none twice."""
        done = wait_for(
            f"more steps than {beyond}",
            lambda: steps if max(steps := self.steps(), default=0) > beyond else None,
            seconds=seconds,
            log=self.service.folder / "log",
        )
        assert done == sorted(set(done)), "no step was done twice"
        assert self.processes()

    def check_leaves(self, asked: float, record: Callable[[str, object], None]) -> None:
        """It saves within 30 s of the moment that it was asked to stop, and is gone 5 s later."""
        ended = wait_for(
            "end of the process",
            lambda: None if self.processes() else time.time(),
            seconds=60,
            log=self.service.folder / "log",
        )
        saved = max(self.checkpoints())
        record("seconds from the word to the checkpoint", saved - asked)
        record("seconds from the checkpoint to the end of the process", ended - saved)
        assert 0 < saved - asked <= 30
        assert ended - saved <= 5

    def steps(self) -> list[int]:
        """The steps that all attempts have done, in the order of their doing."""
        marks = self._work / "progress.jsonl"
        lines = marks.read_text().splitlines() if marks.exists() else []
        return [json.loads(line)["done"] for line in lines]

    def checkpoints(self) -> list[float]:
        """When each of those that lie in the work folder was sealed."""
        return [path.stat().st_mtime for path in self._work.glob("checkpoints/step-*/digests.json")]

    def processes(self) -> list[int]:
        """The processes that train: what they print goes to the step's log in the store."""
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
