"""Random histories of an inbox, a line and its store, compared with a dict of what must be true."""

import contextlib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from alignment.config.inbox import InboxConfig
from alignment.config.pipeline import PipelineConfig
from alignment.errors import ConfigError, LaterVersion, Overtaken, UsageError
from alignment.evaluate.settings import PlainGate
from alignment.rounds.identity import check, check_cheaply, identity_of
from alignment.rounds.inbox import Arrival, scan
from alignment.rounds.ledger import Identity
from alignment.store.store import MANIFEST, Store
from tests import tiny
from tests.alignment.rounds.lines import batch, champion, content, put_model, started
from tests.faults.failpoints import Broken, arm
from tests.machines import histories, history_folder

LATER = '{"format": 99, "stage": "novelty"}'
GATES = st.sampled_from([1.5, 2.0, 3.0])


@cache
def config_with(gate):
    """A config that differs from the others in its gate; nothing of it is read."""
    settings = tiny.settings("model", "store") | {
        "model": {"name": "hub", "id": "someone/tiny", "revision": "0" * 40},
        "sft": {"name": "none"},
        "rounds": [],
        "control": None,
    }
    config = PipelineConfig.model_validate(settings)
    return config.model_copy(update={"gate": PlainGate(max_length_growth=gate)})


@cache
def identity_with(gate):
    return identity_of(config_with(gate))


class Machine(RuleBasedStateMachine):
    """Random histories of an inbox and a line, compared with a dict of each batch's status.

    A batch is free, open, spent, queued, refused, aside (its round failed) or revoked; the inbox
    may contain it under several names, or only a part of it. `batches_in` has the batches in each
    model, so whether a model contains a bad batch is known without the ledger. `paths` has the
    champions that led to each champion, `approved` those that a person promoted, `verdicts` the
    number of verdicts by the anchor, and `newer` what the manifests held that a later version wrote
    over.
    """

    numbers = st.integers(1, 6)
    models = st.integers(0, 30)

    @initialize()
    def begin(self):
        self.folder = history_folder()
        self.inbox = Path(self.folder.name) / "inbox"
        self.inbox.mkdir()
        self.line = started(Store(root=self.folder.name), "main")
        self.other = started(self.line.store, "other")
        self.number = 3
        self.status = dict.fromkeys(range(1, 7), "free")
        self.files: dict[str, int] = {}
        self.batches_in: dict[str, frozenset[int]] = {"start": frozenset()}
        self.rounds: dict[str, tuple[str, frozenset[int]]] = {}
        self.paths, self.dies_at = [["start"]], 0
        self.approved, self.verdicts = set[str](), Counter[str]()
        self.queue: list[frozenset[int]] = []
        self.returned: set[int] = set()
        self.lost: set[str] = set()
        self.newer: dict[str, str] = {}
        self.identity: Identity | None = None
        self.open: tuple[frozenset[int], str, str] | None = None
        self.waiting: str | None = None

    def now(self):
        return self.line.state()

    @property
    def path(self):
        return self.paths[-1]

    @property
    def champion(self):
        return self.path[-1]

    @property
    def anchor(self):
        return next((name for name in self.path[::-1] if name in self.approved), self.path[0])

    def survive(self, change, *arguments, **named):
        """Make a change in a process that dies at the drawn failpoint, then retry it in the next.

        If the entry was written before the death, the retry finds nothing left to do.
        """
        end = arm("raise", nth=self.dies_at)
        try:
            return self.updated(change, *arguments, **named)
        except Broken:
            with contextlib.suppress(Overtaken):
                self.updated(change, *arguments, **named)
            return self.now()
        finally:
            end()
            self.dies_at = 0

    def updated(self, change, *arguments, **named):
        """Do this; if a later version wrote what it reads, nothing happens before an update."""
        before = self.line.ledger.read()
        try:
            return change(*arguments, **named)
        except LaterVersion:
            assert self.newer
            assert self.line.ledger.read() == before
            self.update()
            return change(*arguments, **named)

    @rule(point=st.integers(1, 10))
    def die_at(self, point):
        """Die at this failpoint of the next change; a change passes ten."""
        self.dies_at = point

    # --- the inbox ---

    @rule(number=numbers, name=st.sampled_from("abc"), whole=st.booleans())
    def drop(self, number, name, *, whole):
        """A file appears, replaces another one, or is incomplete."""
        text = content(number) if whole else content(number)[:-3]
        (self.inbox / f"{name}.jsonl").write_bytes(text)
        self.files[name] = number if whole else 0

    @rule(number=numbers)
    def refuse(self, number):
        if self.status[number] == "free":
            self.survive(self.line.refuse, batch(number), "unreadable")
            self.status[number] = "refused"
            self.returned.discard(number)

    @rule(wanted=st.sets(numbers, min_size=1, max_size=6))
    def give_back(self, wanted):
        """Refused batches, and those of failed rounds, are tried again; no others."""
        self.survive(self.line.give_back, tuple(map(batch, sorted(wanted))), "try again")
        back = {number for number in wanted if self.status[number] in ("refused", "aside")}
        self.mark(back, "free")
        self.returned |= back

    # --- rounds ---

    @precondition(lambda self: self.open is None and self.waiting is None)
    @rule()
    def open_round(self):
        inbox = InboxConfig(path=str(self.inbox), settle_seconds=0)
        seen = {found.digest for found in scan(inbox) if isinstance(found, Arrival)}
        free = {n for n in self.files.values() if n and self.status[n] == "free"}
        assert seen - self.now().spent == {batch(number).digest for number in free}
        wanted = self.queue[0] if self.queue else frozenset(free | self.returned)
        if not wanted:
            return
        state = self.survive(self.line.open, tuple(map(batch, sorted(wanted))))
        assert state.open is not None
        self.queue = self.queue[1:]
        self.number += 1
        self.open = (wanted, self.champion, str(self.number))
        self.mark(wanted, "open")
        self.returned -= wanted

    @precondition(lambda self: self.open is None and self.waiting is None and not self.queue)
    @rule(wanted=st.sets(numbers, min_size=1, max_size=3))
    def claim_used_batches(self, wanted):
        if any(self.status[number] != "free" for number in wanted):
            assert self.survive(self.line.open, tuple(map(batch, wanted))).open is None

    @precondition(lambda self: self.open is not None)
    @rule(
        outcome=st.sampled_from(["kept", "kept", "rejected", "inconclusive", "waiting", "failed"]),
        approving=st.sampled_from([False, False, True]),
    )
    def close_round(self, outcome, *, approving):
        """Maybe a person approves the champion after the gate has judged."""
        assert self.open is not None
        claimed, parent, name = self.open
        judged_from = self.anchor
        if approving:
            self.promote_by_person(self.champion)
        put_model(self.line.store, name, parent, *map(batch, claimed))
        if outcome == "failed":
            self.line.fail(self.number, "the loss is NaN")
            assert self.now().failures[-1] == "the loss is NaN"
        self.survive(
            self.line.close,
            self.number,
            champion(name),
            outcome=outcome,
            why="any",
            against=champion(judged_from).model,
        )
        self.open = None
        bad = {number for number in claimed if self.status[number] == "revoked"}
        if bad or parent != self.champion or judged_from != self.anchor:
            self.mark(claimed - bad, "queued")
            self.queue = [claimed - bad, *self.queue]
            self.clear_queue()
            return
        self.mark(claimed, "aside" if outcome == "failed" else "spent")
        if outcome == "failed":
            return
        self.verdicts[self.anchor] += 1
        self.batches_in[name] = self.batches_in[parent] | claimed
        self.rounds[name] = (parent, claimed)
        if outcome == "kept":
            self.promoted(name)
        if outcome == "waiting":
            self.waiting = name

    # --- people ---

    @precondition(lambda self: self.waiting is not None)
    @rule(yes=st.booleans())
    def decide(self, yes):
        assert self.waiting is not None
        if yes and self.waiting not in self.lost:
            self.promote_by_person(self.waiting)
        else:
            self.survive(self.line.decline, champion(self.waiting).model, "any")
        self.waiting = None

    @rule(drawn=models)
    def decline_another(self, drawn):
        """An answer that is about another model than the one that waits declines nothing."""
        name = sorted(self.batches_in)[drawn % len(self.batches_in)]
        if name != self.waiting:
            self.line.decline(champion(name).model, "any")

    @rule(drawn=models)
    def promote(self, drawn):
        """Any model so far, also a rejected one; never one that is gone or contains a bad batch."""
        name = sorted(self.batches_in)[drawn % len(self.batches_in)]
        if self.is_bad(name) or name in self.lost:
            with pytest.raises(UsageError):
                self.line.promote(champion(name), "any")
        else:
            self.promote_by_person(name)

    @rule(drawn=models, changing=st.booleans())
    def promote_by_gate(self, drawn, *, changing):
        """The gate keeps a model, unless champion or anchor change while it judges."""
        name = sorted(self.batches_in)[drawn % len(self.batches_in)]
        seen, before = self.now(), (self.champion, self.anchor)
        if changing:
            self.promote_by_person(self.champion)
        if self.is_bad(name) or name in self.lost or name == self.champion:
            return
        if before != (self.champion, self.anchor):
            with pytest.raises(Overtaken, match="changed while"):
                self.line.promote_by_gate(champion(name), "any", seen=seen)
            return
        judged_from = self.anchor
        self.updated(self.line.promote_by_gate, champion(name), "any", seen=seen)
        self.verdicts[judged_from] += 1
        self.promoted(name)
        self.waiting = None

    @rule()
    def roll_back(self):
        """To the nearest champion on the path that has no bad batch, as far as can be known."""
        known = [name for name in self.path if name in self.lost or not self.is_bad(name)]
        before = [name for name in known if name != self.champion]
        if not before:
            with pytest.raises(UsageError):
                self.line.earlier_champion()
            return
        found = self.updated(self.line.earlier_champion)
        assert found == champion(before[-1])
        if before[-1] in self.lost:
            with pytest.raises(UsageError, match="no longer in"):
                self.line.roll_back(found, "any")
            return
        self.survive(self.line.roll_back, found, "any")
        self.gone_back(before[-1])
        self.waiting = None

    @rule(number=numbers, elsewhere=st.booleans())
    def revoke(self, number, *, elsewhere):
        """On this line or on another one, which makes no difference to this one."""
        if self.status[number] in ("free", "refused", "revoked"):
            return
        if elsewhere:
            self.other.open((batch(number),))
            self.updated(self.other.revoke, batch(number), "any")
            self.other.close(self.other.state().rounds, champion("0"), outcome="kept", why="any")
            self.survive(self.line.revoke_as_elsewhere)
        else:
            self.survive(self.line.revoke, batch(number), "any")
        lost: list[frozenset[int]] = []
        head = self.champion
        while number in self.batches_in[self.waiting or head]:
            name = self.waiting or head
            head, claimed = self.rounds[name]
            lost.insert(0, claimed - {number})
            self.waiting = None
        if head != self.champion:
            self.gone_back(head)
        self.queue = [left for left in (*lost, *(q - {number} for q in self.queue)) if left]
        for left in lost:
            self.mark(left, "queued")
        self.status[number] = "revoked"

    @rule(gate=GATES)
    def adopt(self, gate):
        """A config with another gate continues the line."""
        self.identity = identity_with(gate)
        self.survive(self.line.adopt, self.identity, "any")

    @rule(gate=GATES, cheaply=st.booleans())
    def use_config(self, gate, *, cheaply):
        """A config with another gate than the line has is refused; the first one gives it its."""
        before = self.line.ledger.read()

        def compare():
            if cheaply:
                check_cheaply(config_with(gate), self.line, self.now())
            else:
                check(config_with(gate), self.line)

        if self.identity not in (None, identity_with(gate)):
            with pytest.raises(ConfigError, match=r"gate\.max_length_growth: the line has"):
                compare()
            assert self.line.ledger.read() == before
            return
        self.survive(compare)
        if not cheaply:
            self.identity = identity_with(gate)

    # --- the store ---

    @rule(drawn=models, damaged=st.booleans())
    def lose(self, drawn, *, damaged):
        """The manifest of a rejected model that no other was made of is lost or damaged."""
        parents = {parent for parent, _ in self.rounds.values()} | {self.champion, self.waiting}
        if self.open is not None:
            parents.add(self.open[1])
        leaves = sorted(set(self.rounds) - parents - self.lost)
        if leaves:
            name = leaves[drawn % len(leaves)]
            self.manifest(name).unlink()
            if damaged:
                self.manifest(name).write_text('{"format": 1, "stage":')
            self.newer.pop(name, None)
            self.lost.add(name)

    @rule(drawn=models)
    def later_version(self, drawn):
        """A later version wrote a model, maybe the champion, and something that we do not know."""
        novelty = self.line.store.folder("novelty-1") / MANIFEST
        novelty.parent.mkdir(parents=True, exist_ok=True)
        novelty.write_text(LATER)
        whole = sorted(set(self.batches_in) - self.lost - self.newer.keys())
        if whole:
            name = whole[drawn % len(whole)]
            self.newer[name] = self.manifest(name).read_text()
            self.manifest(name).write_text(LATER)

    @rule(drawn=models)
    def use_what_a_later_version_wrote(self, drawn):
        """It never becomes champion, is not called damaged, and stays where it is."""
        if self.newer:
            name = sorted(self.newer)[drawn % len(self.newer)]
            for change in (self.line.promote, self.line.roll_back):
                with pytest.raises(LaterVersion, match="was written by a later version"):
                    change(champion(name), "any")
            with pytest.raises(LaterVersion):
                self.line.store.reuse(champion(name).model)
            assert self.manifest(name).read_text() == LATER

    @rule()
    def update(self):
        """This version is replaced by the later one, which reads everything."""
        for name, text in self.newer.items():
            self.manifest(name).write_text(text)
        self.newer = {}

    def manifest(self, name):
        return self.line.store.folder(champion(name).model) / MANIFEST

    # --- what must hold ---

    def promote_by_person(self, name):
        if name in self.lost or self.is_bad(name):
            return
        self.survive(self.line.promote, champion(name), "any")
        self.approved.add(name)
        self.verdicts[name] = 0
        if name != self.champion:
            self.promoted(name)
            self.waiting = None

    def is_bad(self, name):
        return any(self.status[number] == "revoked" for number in self.batches_in[name])

    def promoted(self, name):
        self.paths.append([*self.path, name])
        self.clear_queue()

    def gone_back(self, name):
        """To where the name is on the path, else to the path that it last ended."""
        if name in self.path:
            last = len(self.path) - self.path[::-1].index(name)
            self.paths.append(self.path[:last])
        else:
            ended = [path for path in self.paths if path[-1] == name]
            self.paths.append(ended[-1] if ended else [*self.path, name])
        self.clear_queue()

    def clear_queue(self):
        """What the champion contains is not trained on again."""
        used = self.batches_in[self.champion]
        for left in self.queue:
            self.mark(left & used, "spent")
        self.queue = [left - used for left in self.queue if left - used]

    def mark(self, numbers, status):
        for number in numbers:
            self.status[number] = status

    @invariant()
    def ledger_and_model_agree(self):
        state = self.now()
        assert [one.label for one in state.path] == [champion(name).label for name in self.path]
        assert state.identity == self.identity
        assert (state.anchor, state.looks) == (champion(self.anchor), self.verdicts[self.anchor])
        assert (state.waiting.head if state.waiting else None) == (
            champion(self.waiting) if self.waiting else None
        )
        assert state.requeued == tuple(tuple(map(batch, sorted(left))) for left in self.queue)
        gone = {batch(n).digest for n, status in self.status.items() if status != "free"}
        assert state.spent - self.digests("open") == gone - self.digests("open")
        assert {b.digest for b in state.set_aside} == self.digests("aside")
        assert state.refused.keys() == self.digests("refused")
        assert {b.digest for b in state.revoked} == self.digests("revoked")
        assert {b.digest for b in state.returned} == {batch(n).digest for n in self.returned}
        used = [b for opened, _ in state.lineage for b in opened.batches]
        assert len(used) == len(set(used)), "no batch is in a model twice"
        assert {b.digest for b in used} == {batch(n).digest for n in self.batches_in[self.champion]}
        assert not state.barred & {b.digest for b in used}, "a barred batch is in no champion"

    def digests(self, status):
        return {batch(number).digest for number, one in self.status.items() if one == status}

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


Machine.TestCase.settings = histories(examples=40, steps=20)
TestLineAgainstAModel = Machine.TestCase
