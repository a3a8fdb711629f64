"""Runs of one chain at once, which yield to each other at every step of the file system:
`python -m tests.faults.interleave --rounds 500 --runs 4`.

Between looking at a path and acting on it, another process may move the path: the child that
commits, a second run, a reader. So before a share of all file operations in the store (`Path.stat`
and what Python's audit events name: open, mkdir, rename, remove, rmtree, scandir) each process
sleeps for a moment: the parents, which follow, and the children, which build. In every round the
runs start together in an empty store: each runs a chain, then a round of one line on one batch,
whose training is left out. Beside them one process shows the store and exports the models as they
appear. The runs must end with the same artifacts and one closed round, and no work left.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from alignment.config.pipeline import PipelineConfig
from alignment.execution import run_step
from alignment.execution.forkserver import ForkServer, serve
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.plan import plan
from alignment.pipeline.steps import Step
from alignment.records.base import Json
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.inbox import why_unreadable
from alignment.rounds.line import RoundLine
from alignment.store.store import Store
from flows.commands.model import export_model
from flows.commands.show import show_store
from tests import tiny
from tests.faults.simulate import decided, evaluated, imitation
from tests.inbox import drop, rows

SHARE, LONGEST = 0.15, 0.006
"""Share of the file operations that yield, and for how many seconds at most."""
EVENTS = ("open", "shutil.rmtree", "os.")


def yield_often(folder: Path, seed: int) -> None:
    """From now on, this process sleeps before some of its file operations below a folder."""
    generator, stat, place = random.Random(seed), os.stat, str(folder)

    def maybe(path: object) -> None:
        if place in str(path) and generator.random() < SHARE:
            time.sleep(generator.uniform(0, LONGEST))

    def looked(path: Any, *arguments: Any, **options: Any) -> Any:
        found = stat(path, *arguments, **options)
        maybe(path)
        return found

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(EVENTS) and arguments:
            maybe(arguments[0])

    os.stat = looked  # what exists(), is_dir() and is_file() call
    sys.addaudithook(hook)


# --- one run ------------------------------------------------------------------------------------


LEFT_OUT = ("dpo", "merge", "evaluate", "gate")
"""Steps of a round that are not run, and the chain's evaluations."""
NO_ROWS = ("generations", "pairs")
"""Files of an evaluation, which the card of an exported model reads."""


def config_of(folder: Path, store: Path) -> PipelineConfig:
    """A chain that ends with SFT, in two steps, and an inbox."""
    settings = tiny.settings(folder / "model", store)
    settings.update(rounds=[], control=None)
    settings["inbox"] = {"path": str(folder / "inbox"), "min_new_pairs": 4}
    settings["sft"]["data"]["sources"][0]["rows"] = 8
    settings["sft"]["training"].update(max_steps=2, samples=0)
    settings["evaluation"]["data"]["sources"][0]["rows"] = 8
    return PipelineConfig.model_validate(settings)


def imitate(store: Store, step: Step) -> None:
    """Reuse or commit a step as `run_step` does, without its work."""
    if store.reuse(step.key) is not None:
        return
    output: Json = {}
    if step.stage == "evaluate":
        output = evaluated(step) | {name: f"store:{step.key}/{name}.jsonl" for name in NO_ROWS}
    if step.stage in {"gate", "sft-gate"}:
        output = decided(step, passed=True)
    with store.lock(step.key):
        if store.reuse_locked(step.key) is None:
            work = store.workspace(step.key)
            if step.stage == "evaluate":
                for name in NO_ROWS:
                    (work.out / f"{name}.jsonl").touch()
            store.commit(imitation(step, output=output), work)


def run(folder: Path, seed: int) -> None:
    """Run the chain and a round in each store that a line of the input names; a line for each."""
    for store in stores(folder, seed):
        config = config_of(folder, store.root)
        whole = chain(config)
        found = {step.key: built(store, step, whole) for step in whole.steps()}
        print(json.dumps([found, play_round(store, config)]), flush=True)


def stores(folder: Path, seed: int) -> Iterator[Store]:
    yield_often(folder / "stores", seed)
    run_step._forkserver = ForkServer("tests.faults.interleave", run_step.KEEP_FREED_MEMORY)
    for line in sys.stdin:
        yield Store(root=Path(line.strip()))


def built(store: Store, step: Step, whole: Chain) -> object:
    """What the record of a step says that is the same for all runs."""
    if step.stage in {"evaluate", "sft-gate"}:
        imitate(store, step)
        return None
    record = run_step.run_step(store, step)
    planned = {one.key: one.status for one in plan(whole, store)}
    assert planned[step.key] == "SKIP"
    assert step.key in [record.key for record in store.records()]
    return record.model_dump(mode="json")


def play_round(store: Store, config: PipelineConfig) -> object:
    """Take part in the line's first round; returns its history."""

    def build(step: Step) -> None:
        imitate(store, step) if step.stage in LEFT_OUT else run_step.run_step(store, step)

    line = RoundLine(store=store)
    hooks = Hooks(run_chain=lambda: None, build=build, inspect=why_unreadable)
    RoundDriver(config, line, hooks).run()
    return [[opened.number, closed.fate] for opened, closed in line.state().history]


def read(folder: Path, seed: int) -> None:
    """Show each store while the runs fill it, and export its models once they are there."""
    for store in stores(folder, seed):
        whole = chain(config_of(folder, store.root))
        left = [step.key for step in (whole.sft, whole.handover) if step is not None]
        while left:
            if store.root.is_dir():
                show(None, store.root)
            if store.find(left[0]) is None:
                continue
            key, to = left.pop(0), store.root.with_name(f"{store.root.name}-exported")
            form: Literal["adapter", "merged"] = "merged" if left == [] else "adapter"
            with contextlib.redirect_stdout(io.StringIO()):
                export_model(key, store.root, to, form=form, dtype=None)
            shutil.rmtree(to)
            show(key, store.root)
        print("read", flush=True)


def show(reference: str | None, store: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        show_store(reference, store, lineage=False, as_json=False)


# --- all runs -----------------------------------------------------------------------------------


@contextlib.contextmanager
def started(folder: Path, runs: int, seed: int) -> Iterator[list[subprocess.Popen[str]]]:
    """The runs, and the reader, which is last."""
    command = [sys.executable, "-m", "tests.faults.interleave", "--folder", str(folder)]
    roles = [*(["--role", "run"] for _ in range(runs)), ["--role", "read"]]
    processes = [
        subprocess.Popen(
            [*command, *role, "--seed", str(100 * seed + number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"run-{number}.err").open("w"),
            text=True,
        )
        for number, role in enumerate(roles)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def rounds(folder: Path, *, rounds: int, runs: int, seed: int) -> int:
    """Rounds without an error; raises AssertionError with what a run said at the first error."""
    with started(folder, runs, seed) as processes:
        for number in range(rounds):
            store = Store(root=folder / "stores" / str(number))
            for process in processes:
                _pipe(process.stdin).write(f"{store.root}\n")
                _pipe(process.stdin).flush()
            answers = [_pipe(process.stdout).readline() for process in processes]
            said = [(folder / f"run-{run}.err").read_text()[-2000:] for run in range(runs + 1)]
            assert all(answers), "\n".join(said)
            assert len(set(answers[:-1])) == 1, f"two runs have other records: {answers}"
            found, history = json.loads(answers[0])
            assert history == [[1, "kept"]]
            for key in (*found, *store.list_keys()):
                store.open(key)
            left = [
                str(path) for name in ("work", "damaged") for path in (store.root / name).glob("*")
            ]
            assert not left, f"left behind: {left}"
            shutil.rmtree(store.root)
    return rounds


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep the cores busy: so many processes that compute for ever."""
    loops = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(count)]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.join()


def _compute() -> None:
    while True:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--busy", type=int, default=0, help="processes that only compute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="be one of the processes, in this folder")
    parser.add_argument("--role", choices=("run", "read"), help="which of them")
    given = parser.parse_args()
    if given.folder:
        {"run": run, "read": read}[given.role](given.folder, given.seed)
        return 0
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="interleave-") as name, busy(given.busy):
        folder = Path(name)
        tiny.write_model(folder / "model", tiny.tokenizer())
        drop(folder / "inbox" / "monday.jsonl", rows(0, 8))
        done = rounds(folder, rounds=given.rounds, runs=given.runs, seed=given.seed)
    print(
        f"{given.runs} runs at once, {given.busy} busy loops, seed {given.seed}: "
        f"{done} rounds, 0 errors, {time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    if sys.argv[1].isdigit():  # a child of the fork server
        given = serve(int(sys.argv[1]))
        yield_often(Path(given[0]), os.getpid())
        os._exit(run_step.main(*given))
    sys.exit(main())
