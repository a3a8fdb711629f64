"""Kill -9 at random points of a tiny chain: `python -m tests.faults.kill --kills 200`.

The chain is SFT, merge and evaluation, then two rounds from an inbox, each trained, merged,
evaluated, judged and closed. It runs in a process forked after the imports, which is killed at a
random failpoint or a random moment; the next process continues. After `--per-run` kills the chain
may finish. It must then match an undisturbed run: every file of every artifact, the ledger and the
champion are the same, each batch is used once, and nothing is left over.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil

from alignment.config.pipeline import PipelineConfig
from alignment.execution.provenance import code_version, hardware, libraries
from alignment.execution.run_step import build
from alignment.pipeline.verdicts import each_step
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.inbox import why_unreadable
from alignment.rounds.line import RoundLine
from alignment.store.lineage import ancestors
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests import tiny
from tests.faults.failpoints import arm, observe
from tests.inbox import drop, line_settings, rows

ROUNDS = 2


class Bench:
    """The folder of all runs. They share model and held-out rows, and use the same paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.store = Store(root=folder / "store")
        self.line = RoundLine(store=self.store)

    def prepare(self) -> None:
        """Write the model in a child process, because torch must not run before a fork."""
        self.forked(lambda: tiny.write_model(self.folder / "model", tiny.tokenizer()))
        self.config = self._config()

    def _config(self) -> PipelineConfig:
        """Also writes the held-out rows, so call it while no other process reads them."""
        settings = tiny.settings(self.folder / "model", self.store.root)
        sft = settings["sft"]
        settings = line_settings(settings, self.folder) | {"sft": sft}
        settings["inbox"]["settle_seconds"] = 0
        settings["dpo"]["epochs"] = 1
        return PipelineConfig.model_validate(settings)

    # --- the chain ---

    def work(self) -> None:
        """Do all remaining work; on SIGTERM a training saves first, as in a child of `run_step`."""
        config, progress = self.config, Progress(self.folder / "progress.jsonl")
        signal.signal(signal.SIGTERM, lambda *_: progress.ask_to_stop())
        hooks = Hooks(
            run_chain=lambda: [*map(hooks.build, each_step(config, self.store))],
            build=lambda step: build(self.store, step, progress),
            inspect=why_unreadable,
        )
        while len(history := self.line.state().history) < ROUNDS:
            name = f"{len(history)}.jsonl"
            if not (self.inbox / name).exists():
                drop(self.inbox / f".{name}", rows(100 * len(history), 16))
                (self.inbox / f".{name}").rename(self.inbox / name)
            RoundDriver(config, self.line, hooks).run()

    # --- processes ---

    def forked(self, run) -> tuple[int, float]:
        """Run this in a child process; returns its exit code (-N for signal N) and seconds."""
        return self.ended(self.fork(run))

    def fork(self, run) -> tuple[int, float]:
        child = os.fork()
        if child == 0:
            os.setsid()
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                run()
            except BaseException:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        return child, time.monotonic()

    @staticmethod
    def ended(started: tuple[int, float]) -> tuple[int, float]:
        child, began = started
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, time.monotonic() - began

    def orphans(self, session: int) -> list[int]:
        """Processes that a dead one left behind, found by its session."""
        found = []
        for process in psutil.pids():
            try:
                if os.getsid(process) == session:
                    found.append(process)
            except OSError:
                continue
        return found

    # --- how it ended ---

    def clear(self) -> None:
        for path in (self.store.root, self.inbox):
            shutil.rmtree(path, ignore_errors=True)

    def digest(self) -> dict[str, str]:
        """Digests of all files of all artifacts and of all events, without the times in them."""
        found = {}
        for key in self.store.list_keys():
            for file in self.store.open(key).files:
                found[f"{key}/{file.path}"] = self._content(key, file.path, file.sha256)
        for entry in self.line.ledger.read():
            event = hashlib.sha256(entry.event.model_dump_json().encode()).hexdigest()
            found[f"entry {entry.number}"] = event
        return found

    def _content(self, key: str, path: str, digest: str) -> str:
        if not path.endswith("history.jsonl"):
            return digest
        lines = (self.store.folder(key) / path).read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if row.keys() & {"loss", "eval_loss"}]
        curve = [(row["step"], row.get("loss"), row.get("eval_loss")) for row in rows]
        return hashlib.sha256(json.dumps(curve).encode()).hexdigest()

    def check(self, wanted: dict[str, str]) -> None:
        """Assert that the run ended like the undisturbed one."""
        found, needed = self.digest(), {name.split("/")[0] for name in wanted}

        def is_extra_count(name: str) -> bool:
            """Of two processes, one may count the pairs of batches that the other has claimed."""
            return name.startswith("intake-") and name.split("/")[0] not in needed

        names = {name for name in {*found, *wanted} if not is_extra_count(name)}
        different = {k: found.get(k, "missing") for k in names if found.get(k) != wanted.get(k)}
        assert not different, (
            f"differs from the undisturbed run, which had {len(wanted)} files: {different}"
        )
        state = self.line.state()
        assert state.champion is not None
        used = [b.key for opened, _ in state.history for b in opened.batches]
        assert len(used) == len(set(used)) == ROUNDS, "a batch was used twice"
        of_model = [one.key for one in ancestors(self.store, state.champion.model)]
        assert {key for key in of_model if key.startswith("batch-")} <= set(used)
        for place in ("work", "damaged"):
            left = [path.name for path in self.store.root.glob(f"{place}/*")]
            assert all(map(is_extra_count, left)), f"left in {place}: {left}"


def torture(bench: Bench, *, kills: int, seed: int, per_run: int, until: float) -> Counter[str]:
    """Kill `kills` times, over as many runs as needed; returns the number of each kind."""
    wanted, seconds, points = undisturbed(bench)
    print(f"undisturbed: {seconds:.1f} s, {len(wanted)} files and entries, {points} failpoints")
    done: Counter[str] = Counter()
    generator = random.Random(seed)
    while done["kills"] < kills and time.monotonic() < until:
        bench.clear()
        for _ in range(min(per_run, kills - done["kills"])):
            _kill(bench, generator, seconds=seconds, points=points, per_run=per_run, done=done)
        code, again = bench.forked(bench.work)
        assert code == 0, (bench.folder / "log").read_text()[-3000:]
        bench.check(wanted)
        done["runs"] += 1
        print(f"run {done['runs']}: {done['kills']} kills so far, last process {again:.1f} s")
    return done


def _kill(
    bench: Bench,
    generator: random.Random,
    *,
    seconds: float,
    points: int,
    per_run: int,
    done: Counter[str],
) -> None:
    """Start a process and kill it, unless it finishes first."""
    if generator.random() < 0.5:
        nth = generator.randint(1, max(2, 2 * points // per_run))

        def work() -> None:
            arm("kill", nth=nth)
            bench.work()

        started, kind = bench.fork(work), "at a failpoint"
    else:
        started, kind = bench.fork(bench.work), "at a moment"
        time.sleep(generator.uniform(0, 2 * seconds / per_run))
        os.kill(started[0], signal.SIGKILL)
    code, _ = bench.ended(started)
    assert code in (0, -signal.SIGKILL), (bench.folder / "log").read_text()[-3000:]
    orphans = bench.orphans(started[0])
    assert not orphans, f"left behind by the dead process: {orphans}"
    if code:
        done["kills"] += 1
        done[kind] += 1


def undisturbed(bench: Bench) -> tuple[dict[str, str], float, int]:
    """Run the chain without kills; returns its digests, its seconds and its failpoints."""

    def work() -> None:
        names: list[str] = []
        observe(names.append)
        bench.work()
        (bench.folder / "points").write_text(str(len(names)))

    code, seconds = bench.forked(work)
    assert code == 0, (bench.folder / "log").read_text()[-3000:]
    return bench.digest(), seconds, int((bench.folder / "points").read_text())


def warm() -> None:
    """Import everything that the chain imports once, before forking."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401
    import transformers.trainer  # noqa: F401
    import trl  # noqa: F401
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM  # noqa: F401
    from trl.trainer.dpo_trainer import DPOTrainer  # noqa: F401
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: F401

    code_version(), libraries(), hardware()


def command(
    doc: str,
    of_what: str,
    bench_in: Callable[[Path], AbstractContextManager[Bench]],
    *,
    kills: int,
    minutes: float,
) -> int:
    """Parse the arguments, run the kills and print a summary; 1 if a run did not end as it should.

    Args:
        doc: the help's first line.
        of_what: what is killed, for the summary.
        bench_in: opens the bench in a folder.
        kills, minutes: defaults.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-run", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=minutes)
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    warm()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        bench_in(Path(folder)) as bench,
    ):
        bench.prepare()
        until = began + 60 * given.minutes
        try:
            done = torture(
                bench, kills=given.kills, seed=given.seed, per_run=given.per_run, until=until
            )
        except AssertionError as error:
            print(f"seed {given.seed}: {error}")
            return 1
    seconds = time.monotonic() - began
    kinds = f"{done['at a failpoint']} at failpoints, {done['at a moment']} at moments"
    runs = f"kill -9 {of_what} ({kinds}; {done['runs']} runs, seed {given.seed})"
    print(f"{runs}: tried {done['kills']}, lost 0, {seconds:.0f} s")
    return 0 if done["kills"] >= given.kills else 1


def main() -> int:
    """Kill processes of a chain."""
    return command(
        __doc__, "of a chain", lambda folder: nullcontext(Bench(folder)), kills=200, minutes=15.0
    )


if __name__ == "__main__":
    sys.exit(main())
