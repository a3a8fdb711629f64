"""The control plane in random histories: `python -m tests.faults.simulate --seeds 10000`.

Real: inbox, batches, store, ledger, champion, and the driver of rounds
(`alignment/rounds/driver.py`).
Simulated: training and evaluation, with empty artifacts and random verdicts; the clock; and other
processes, which may act at any failpoint. The seed determines a history: files appear, twice,
truncated or unreadable; rounds run and die, fail, or find the disk full; people promote, decline,
roll back, revoke, return batches, use the config of another line or adopt it; artifacts are
damaged, and a later version writes into the store. Finally, rounds run undisturbed until there is
no new data, and the end state is checked.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from alignment.config.pipeline import PipelineConfig
from alignment.errors import (
    AlignmentError,
    ArtifactError,
    ConfigError,
    TrainingError,
    UsageError,
)
from alignment.evaluate.settings import PlainGate
from alignment.pipeline.step import Context
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.identity import identity_of
from alignment.rounds.inbox import why_unreadable
from alignment.rounds.ledger import Champion, Closed, Opened, Returned
from alignment.rounds.line import RoundLine
from alignment.rounds.state import State, after
from alignment.store.lineage import ancestors
from alignment.store.progress import Progress
from alignment.store.store import MANIFEST, Store
from tests import tiny
from tests.alignment.artifacts import record_of
from tests.faults.failpoints import Broken, arm, observe
from tests.machines import history_folder

NEEDED = 16
LETTERS = {"name": "verifier", "check": {"name": "pattern", "pattern": "[a-f]"}}
OLD = time.time() - 10_000
MODEL = {
    "base": {"uri": "folder:base", "sha256": "0" * 64, "dtype": "float32"},
    "tokenizer": {
        "uri": "folder:base",
        "sha256": "0" * 64,
        "chat_template_sha256": "0" * 64,
    },
}


def evaluated(step):
    """The output of an evaluation in which half of the pairs are right."""
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    return {
        "model": step.label,
        "overall": {"preference_accuracy": estimate},
        "by_task_type": {},
        "by_source": {},
        "generations": "",
        "pairs": "",
    }


def decided(step, *, passed):
    """The output of a gate."""
    check = {"name": "preference_accuracy", "passed": passed, "words": "drawn"}
    verdict = {"candidate": "new", "champion": "old", "checks": [check]}
    return {"model": MODEL, "evaluation": step.evaluation, "verdict": verdict}


def imitation(step, *, output, new=0.0):
    """The record of a step that was not run."""
    made = record_of(
        step.key,
        parents=step.roles,
        output=output,
        metrics={"new": new, "prompts": new},
        config=step.settings,
        name=step.name,
    )
    return made.model_copy(update={"stage": step.stage, "version": step.version, "seed": step.seed})


class History:
    """Everything that happens in one store under one seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        settings = tiny.settings(folder / "base", folder / "store") | {
            "model": {"name": "hub", "id": "someone/tiny", "revision": "0" * 40},
            "sft": {"name": "none"},
            "rounds": [],
            "control": None,
            "inbox": {
                "path": str(self.inbox),
                "min_new_pairs": NEEDED,
                "promotion": {"name": self.random.choice(["gate", "person"])},
                "answers": {"label": LETTERS, "min_new_prompts": NEEDED},
            },
        }
        self.config = PipelineConfig.model_validate(settings)
        self.store = Store(root=folder / "store")
        self.line = RoundLine(store=self.store)
        self.done: Counter[str] = Counter()
        self.good: set[str] = set()
        self.bad: set[str] = set()
        self.rows: dict[str, int] = {}
        self.clock = 0.0
        self.depth = 0
        self.building = self.failing = False
        self._begin()

    def _begin(self):
        for key, parents in (
            ("base-0", {}),
            ("merge-0", {"policy": "base-0"}),
            ("evaluate-0", {"model": "merge-0", "data 1": "base-0"}),
        ):
            self.put(key, parents)
        self.line.start(Champion(model="merge-0", evaluation="evaluate-0", label="start"), rounds=0)

    def put(self, key, parents):
        """An artifact that no round of this line made, and that no step can make again."""
        workspace = self.store.workspace(key)
        (workspace.out / "weights").write_text(key)
        record = record_of(key, parents=parents, config={"digest": self.config.model.digest()})
        self.store.commit(record, workspace)

    # --- hooks of a round ---

    def build(self, step):
        """Build a step like `run_step.build` but without its work; batches are really copied."""
        if self.store.reuse(step.key) is not None:
            return
        self.building = True  # under the key's lock, no other process builds it
        try:
            workspace = self.store.workspace(step.key)
            output, new = {}, 0.0
            if step.stage == "dpo" and self.failing:
                raise TrainingError("the loss is NaN")
            if step.stage == "batch":
                context = Context(self.store, workspace, Progress())
                output = step.build(context).output.model_dump(mode="json")
            if step.stage in ("intake", "intake-prompts"):
                taken = [self.store.open(key) for key in step.batches]
                files = [self.store.folder(one.key) / str(one.output["file"]) for one in taken]
                new = float(sum(file.read_text().count("prompt") for file in files))
            if step.stage == "evaluate":
                output = evaluated(step)
            if step.stage == "gate":
                output = self.verdict(step)
            (workspace.out / "weights").write_text(step.key)
            self.store.commit(imitation(step, output=output, new=new), workspace)
        finally:
            self.building = False

    def verdict(self, step):
        """A verdict derived from the key, so that every process judges a round the same way."""
        passed = int(hashlib.sha256(step.key.encode()).hexdigest()[:2], 16) < 180
        return decided(step, passed=passed)

    def round(self):
        hooks = Hooks(
            run_chain=lambda: None,
            build=self.build,
            now=lambda: time.time() + self.clock,
            inspect=why_unreadable,
        )
        outcome = RoundDriver(self.config, self.line, hooks).run().outcome
        self.done[outcome] += 1
        return outcome

    # --- what happens ---

    def drop(self):
        """Drop a complete batch, a duplicate, a truncated one, or an unreadable one."""
        kind = self.random.choice(["new", "new", "new", "prompts", "again", "cut", "nonsense"])
        name = self.random.choice(["a", "b", "c", "d.prompts", "e.prompts", "f"])
        count = self.random.randint(4, 30)
        replies = {} if kind == "prompts" else {"chosen": "yes", "rejected": "no"}
        rows = [json.dumps({"prompt": f"{self.random.random()}", **replies}) for _ in range(count)]
        text = "".join(row + "\n" for row in rows)
        if kind == "again" and (files := sorted(self.inbox.iterdir())):
            text = self.random.choice(files).read_text()
        if kind == "cut":
            text = text[:-9]
        if kind == "nonsense":
            text = json.dumps({"colour": self.random.random()}) + "\n"
        (self.inbox / f"{name}.jsonl").write_text(text)
        os.utime(self.inbox / f"{name}.jsonl", (OLD, OLD))

    def person(self):
        state = self.line.state()
        action = self.random.choice(
            ["decide", "decide", "roll back", "revoke", "promote", "retry", "adopt"]
        )
        self.done[action] += 1
        if action == "decide" and state.waiting is not None:
            if self.random.random() < 0.7:
                self.line.promote(state.waiting.head, "read it")
            else:
                self.line.decline(state.waiting.head.model, "too chatty")
        elif action == "roll back":
            with contextlib.suppress(UsageError):
                self.line.roll_back(self.line.earlier_champion(), "worse")
        elif action == "revoke" and state.history:
            opened, _ = self.random.choice(state.history)
            self.line.revoke(self.random.choice(opened.batches), "wrong labels")
        elif action == "promote" and state.history:
            _, closed = self.random.choice(state.history)
            self.line.promote(closed.head, "it was better than the gate thinks")
        elif action == "retry":
            refused = tuple(one.batch for one in state.refused.values())
            self.line.give_back((*refused, *state.set_aside), "try again")
        elif action == "adopt" and state.identity is not None:
            self.config = self.other_config(self.random.choice([1.5, 2.0, 3.0]))
            self.line.adopt(identity_of(self.config), "another gate")

    def other_config(self, growth):
        gate = PlainGate(max_length_growth=growth)
        return self.config.model_copy(update={"gate": gate})

    def foreign(self):
        """A round with the config of another line: it is refused, and writes nothing."""
        before = self.line.ledger.read()
        config, self.config = self.config, self.other_config(9.0)
        try:
            if before[0] and self.line.state().identity is not None:
                self.round()
                raise AssertionError("the config of another line trained this one")
        except ConfigError:
            assert self.line.ledger.read()[: len(before)] == before
        finally:
            self.config = config

    def fail(self):
        """The training of the open round fails, once or often, in the same way."""
        self.failing = True
        try:
            for _ in range(self.random.choice([1, 3])):
                with contextlib.suppress(TrainingError):
                    self.round()
        finally:
            self.failing = False

    def damage(self):
        """An artifact of the line is gone, or a file of it changed; the start is not damaged."""
        keys = [key for key in self.store.list_keys() if not key.endswith("-0")]
        if keys:
            folder = self.store.folder(self.random.choice(keys))
            match self.random.choice(["gone", "manifest", "weights"]):
                case "gone":
                    shutil.rmtree(folder)
                case "manifest":
                    (folder / MANIFEST).write_text("{")
                case "weights":
                    (folder / "weights").write_text("other")

    def later_version(self):
        """A later version writes an artifact that this one cannot read."""
        path = self.store.folder("novelty-1") / "manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"format": 99, "key": "novelty-1", "stage": "novelty"}')

    def leap(self):
        """This machine's clock jumps by hours, forwards or backwards."""
        self.clock = self.random.choice([0.0, 0.0, 7200.0, -7200.0, 86400.0])

    def act(self):
        often = [self.drop, self.round, self.person] * 3
        seldom = [self.leap, self.foreign, self.fail, self.damage, self.later_version]
        action = self.random.choice([*often, *seldom])
        self.done[action.__name__] += 1
        action()

    def disturbed(self):
        """An action that dies at a failpoint, or is interrupted by another process."""
        how = self.random.choice(["raise", "full", "between", "between", "nothing"])
        at = self.random.randint(1, 120 if how == "raise" else 60)
        if how == "between":
            end = observe(self.intrude(at))
        elif how == "nothing":
            end = lambda: None  # noqa: E731
        else:
            end = arm("full" if how == "full" else "raise", nth=at)
        try:
            self.act()
        except (Broken, AlignmentError, OSError) as error:
            self.done[type(error).__name__] += 1
        finally:
            end()
            self.building = False

    def intrude(self, nth):
        count = itertools.count(1)

        def observer(_name):
            if not self.building and self.depth == 0 and next(count) == nth:
                self.depth += 1
                self.done["between"] += 1
                try:
                    self.act()
                except AlignmentError as error:
                    self.done[type(error).__name__] += 1
                finally:
                    self.depth -= 1

        return observer

    def run(self, actions: int) -> str:
        """Run a whole history and check it; returns a digest of the end state."""
        for _ in range(actions):
            self.disturbed()
            self.check()
        self.clock = 0.0
        if self.line.state().identity is not None:
            self.line.adopt(identity_of(self.config), "whoever adopted it may have died")
        for _ in range(100):
            if (waiting := self.line.state().waiting) is not None:
                self.approve(waiting)
            if self.settled():
                break
        else:
            raise AssertionError("it never settles")
        self.check()
        self.check_end()
        return hashlib.sha256(self.line.state().model_dump_json().encode()).hexdigest()

    def approve(self, waiting):
        try:
            self.line.promote(waiting.head, "at the end")
        except (
            UsageError,
            ArtifactError,
        ):  # it is lost, or has a batch that was revoked on another line
            self.line.decline(waiting.head.model, "it is lost")

    def settled(self):
        """Run a round; a person goes back where it says that an ancestor cannot be built again."""
        try:
            return self.round() == "no new data"
        except ArtifactError as error:
            if "sft-dpo rollback" not in str(error):
                raise AssertionError("it names no way out") from error
            self.back_to_a_whole_model()
            return False

    def back_to_a_whole_model(self):
        for champion in self.line.state().earlier_champions():
            with contextlib.suppress(UsageError, ArtifactError):
                self.line.roll_back(champion, "its successor is lost")
                return
        raise AssertionError("no champion is left, but the first is never damaged")

    # --- what must hold ---

    def check(self):
        state = self.line.state()
        led = [batch.digest for opened, _ in state.lineage for batch in opened.batches]
        assert len(led) == len(set(led)), "a batch is in the champion twice"
        assert not state.barred & set(led), "a revoked batch is in the champion"
        assert state.champion is not None
        try:
            made_of = ancestors(self.store, state.champion.model)
        except ArtifactError:
            return  # damaged: the next round builds it again, or says that it cannot
        batches = {one.key for one in made_of if one.stage == "batch"}
        keys = {batch.key for opened, _ in state.lineage for batch in opened.batches}
        assert batches == keys, "the ledger and the champion's manifests disagree"
        revoked = {batch.key for batch in state.revoked}
        assert not revoked & batches, "the champion's manifests have a revoked batch"
        numbers = [opened.number for opened, _ in state.history]
        assert numbers == sorted(set(numbers)), "a round was closed twice"
        self.check_history()

    def check_history(self):
        """Entry by entry: a kept round started from the champion, and no rejected batch returns."""
        before, rejected = State(), set[str]()
        for entry in self.line.ledger.read():
            event = entry.event
            if isinstance(event, Returned):
                rejected -= {batch.digest for batch in event.batches}
            if isinstance(event, Opened):
                again = rejected & {batch.digest for batch in event.batches}
                assert not again, "a rejected batch was tried again"
            if isinstance(event, Closed) and before.open is not None:
                assert event.fate != "kept" or before.champion == before.open.parent, (
                    "a lost update"
                )
                if event.fate == "rejected":
                    rejected |= {batch.digest for batch in before.open.batches}
            before = after(before, event)

    def check_end(self):
        """Nothing is open, requeued or lost: every batch in the inbox was used or refused."""
        state = self.line.state()
        assert state.open is None
        assert not state.requeued
        for kind in ("pairs", "prompts"):
            pending = sum(
                len(content.splitlines())
                for content, kinds in self.contents().items()
                if kinds == (kind,) and hashlib.sha256(content).hexdigest() not in state.spent
            )
            assert pending < NEEDED, f"{pending} {kind} in the inbox that no round has used"

    def contents(self):
        """The complete files in the inbox: their bytes, and of which kinds their names are."""
        found: dict[bytes, list[tuple[str, str]]] = {}
        for path in self.inbox.iterdir():
            content = path.read_bytes()
            kind = "prompts" if ".prompts." in path.name else "pairs"
            if content.endswith(b"\n"):
                found.setdefault(content, []).append((path.name, kind))
        return {content: min(names)[1:] for content, names in found.items()}


def run(seed: int, actions: int = 14) -> tuple[int, str, Counter[str]]:
    """Run one history: its seed, the problem (or ""), and the number of events by kind."""
    with history_folder() as folder:
        history = History(seed, Path(folder))
        try:
            history.run(actions)
        except Exception as error:
            return seed, f"{type(error).__name__}: {error}", history.done
        return seed, "", history.done


def main() -> int:
    """Run the histories and print a summary; returns 1 if one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    wanted = parser.parse_args()
    logging.disable(logging.WARNING)
    began, happened, tried = time.monotonic(), Counter[str](), 0
    with multiprocessing.Pool(wanted.jobs) as pool:
        seeds = range(wanted.first, wanted.first + wanted.seeds)
        for seed, problem, done in pool.imap(run, seeds, chunksize=20):
            tried += 1
            happened += done
            if problem:
                print(f"seed {seed}: {problem}\n  again: {sys.argv[0]} --first {seed} --seeds 1")
                return 1
            if time.monotonic() - began > 60 * wanted.minutes:
                print(f"time is up after {tried} of {wanted.seeds} seeds")
                break
    print("  ".join(f"{name}: {count}" for name, count in sorted(happened.items())))
    seconds = time.monotonic() - began
    name = f"simulated histories of inbox, ledger and champion (seeds from {wanted.first})"
    print(f"{name}: tried {tried}, lost 0, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
