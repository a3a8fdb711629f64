"""The champion and the ledger: single entries, concurrent writers, and random histories."""

import contextlib
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from alignment.config.inbox import InboxConfig
from alignment.errors import ArtifactError, Overtaken, UsageError
from alignment.rounds.inbox import Arrival, scan
from alignment.rounds.ledger import Champion, Delivery, Identity, Started
from alignment.rounds.line import RoundLine, check_sound
from alignment.store.store import Store
from tests.alignment.artifacts import record_of
from tests.faults.failpoints import Broken, arm
from tests.machines import histories, history_folder


def content(number):
    return json.dumps({"number": number}).encode() + b"\n"


def batch(number):
    digest = hashlib.sha256(content(number)).hexdigest()
    return Delivery(digest=digest, key=f"batch-{digest[:12]}", file=f"{number}.jsonl")


def champion(name):
    return Champion(model=f"merge-{name}", evaluation=f"evaluate-{name}", label=f"round {name}")


def put(store, key, *parents):
    """An empty artifact with these parents, by their keys."""
    if store.find(key) is None:
        roles = {f"parent {number}": parent for number, parent in enumerate(parents)}
        store.commit(record_of(key, parents=roles), store.workspace(key))


def put_model(store, name, parent, *batches):
    """The model of a round: its manifest says what it was trained on."""
    for one in batches:
        put(store, one.key)
    put(store, champion(name).model, champion(parent).model, *(one.key for one in batches))


@pytest.fixture
def line(tmp_path):
    """A line that has started, after three configured rounds."""
    return started(Store(root=tmp_path), "main")


def started(store, name):
    made = RoundLine(store=store, name=name)
    put(store, champion("start").model)
    made.start(champion("start"), rounds=3)
    return made


def closed(line, number, *batches, outcome):
    """Open a round, train its model and close it."""
    opened = line.open(batches).open
    put_model(line.store, number, opened.parent.label.removeprefix("round "), *opened.batches)
    return line.close(number, champion(number), outcome=outcome, why="any")


def kept(line, number, *batches):
    return closed(line, number, *batches, outcome="kept")


def entries(line):
    return [entry.event.name for entry in line.ledger.read()]


# --- what changes the champion -------------------------------------------------------------------


def test_kept_round_is_the_champion_and_the_next_starts_from_it(line):
    assert kept(line, 4, batch(1)).champion == champion(4)
    opened = line.open((batch(2),)).open
    assert opened is not None
    assert (opened.number, opened.parent) == (5, champion(4))


def test_rejected_round_leaves_the_champion_and_spends_its_batches(line):
    line.open((batch(1),))
    state = line.close(4, champion(4), outcome="rejected", why="worse")
    assert state.champion == champion("start")
    assert state.spent == {batch(1).digest}
    assert line.open((batch(1),)).open is None, "not tried again"


def test_an_open_round_is_the_only_one_until_it_is_closed(line):
    line.open((batch(1),))
    opened = line.open((batch(2),)).open
    assert opened is not None
    assert opened.batches == (batch(1),)
    assert entries(line) == ["started", "opened"]


def test_round_that_waits_becomes_the_champion_once_a_person_approves(line):
    assert closed(line, 4, batch(1), outcome="waiting").champion == champion("start")
    assert line.open((batch(2),)).open is None, "no other round begins"
    state = line.promote(champion(4), "looked at ten replies")
    assert (state.champion, state.waiting) == (champion(4), None)
    assert [opened.number for opened, _ in state.lineage] == [4]


def test_declined_round_no_longer_waits_and_its_batches_are_spent(line):
    line.open((batch(1),))
    line.close(4, champion(4), outcome="waiting", why="passed")
    state = line.decline("too chatty")
    assert (state.champion, state.waiting) == (champion("start"), None)
    assert batch(1).digest in state.spent


def test_rollback_restores_an_earlier_champion_and_later_batches_stay_spent(line):
    kept(line, 4, batch(1))
    state = line.roll_back(champion("start"), "users complain")
    assert state.champion == champion("start")
    assert state.champions == (champion("start"), champion(4), champion("start"))
    assert batch(1).digest in state.spent
    assert state.lineage == ()


def test_rolling_back_twice_goes_back_two_champions(line):
    for number in (4, 5, 6):
        kept(line, number, batch(number))
    back = []
    for _ in range(3):
        line.roll_back(line.earlier_champion(), "bad")
        back.append(line.state().champion)
    assert back == [champion(5), champion(4), champion("start")]
    with pytest.raises(UsageError, match="no such earlier champion"):
        line.earlier_champion()


def test_a_rollback_follows_the_promotions_that_led_to_the_champion(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    line.roll_back(line.earlier_champion("round 4"), "bad")
    kept(line, 6, batch(3))
    line.promote(champion(5), "it was good")
    path = [champion(6), champion(4), champion("start")]
    for expected in path:
        assert line.roll_back(line.earlier_champion(), "bad").champion == expected


def test_rounds_are_judged_from_the_last_model_that_a_person_promoted(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    assert line.state().anchor == champion("start")
    line.promote(champion(5), "read ten replies")
    kept(line, 6, batch(3))
    line.promote(champion(4), "the gate chose it", by="gate")
    assert (line.state().anchor, line.state().looks) == (champion(5), 2)
    opened = line.open((batch(4),)).open
    assert opened is not None
    assert (opened.anchor, opened.look) == (champion(5), 3)


def test_confirming_the_champion_begins_the_count_of_verdicts_again(line):
    kept(line, 4, batch(1))
    state = line.promote(champion(4), "still good")
    assert (state.anchor, state.looks) == (champion(4), 0)
    assert state.path == (champion("start"), champion(4)), "it is not its own predecessor"
    line.promote(champion(4), "still good")
    assert entries(line)[-2:] == ["closed", "moved"], "confirming twice changes nothing"


def test_rolling_back_past_an_approved_model_goes_back_to_the_anchor_before(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    line.promote(champion(5), "read ten replies")
    kept(line, 6, batch(3))
    line.roll_back(line.earlier_champion(), "bad")
    state = line.roll_back(line.earlier_champion(), "bad")
    assert (state.champion, state.anchor) == (champion(4), champion("start"))
    assert state.looks == 2, "its error is spent by the verdicts from before, not renewed"


def test_only_a_model_that_is_in_the_store_becomes_champion(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2))
    (line.store.folder("merge-4") / "manifest.json").unlink()
    for change in (line.promote, line.roll_back):
        with pytest.raises(UsageError, match=r"round 4 \(merge-4\) is no longer in "):
            change(champion(4), "any")


# --- the second of two writers -------------------------------------------------------------------


def test_second_run_to_close_a_round_is_overtaken(line):
    """Both runs joined the same open round; the other one closed it first."""
    kept(line, 4, batch(1))
    with pytest.raises(Overtaken, match=r"has already closed round 4 of line 'main' \(kept\)"):
        line.close(4, champion("other"), outcome="kept", why="better")
    assert line.state().champion == champion(4)


def test_round_whose_parent_is_no_longer_champion_cannot_become_champion(line):
    kept(line, 4, batch(1))
    line.open((batch(2),))
    line.roll_back(champion("start"), "bad")
    state = line.close(5, champion(5), outcome="kept", why="better")
    assert state.champion == champion("start")
    assert state.history[-1][1].fate == "overtaken"
    assert state.requeued == ((batch(2),),), "its batches go to the next round"


def test_of_two_writers_that_read_the_same_ledger_one_writes(line):
    before = line.ledger.read()
    line.ledger.append(Started(head=champion("a"), rounds=0), after=before)
    with pytest.raises(Overtaken, match="run the same command again"):
        line.ledger.append(Started(head=champion("b"), rounds=0), after=before)


RACE = """
import sys
from pathlib import Path
from alignment.rounds.line import RoundLine, check_sound
from alignment.rounds.ledger import Delivery
from alignment.store.store import Store

line = RoundLine(store=Store(root=Path(sys.argv[1])))
sys.stdin.readline()
me = sys.argv[2] * 64
opened = line.open((Delivery(digest=me, key=f"batch-{me}", file=me),)).open
print(opened.batches[0].digest[0])
"""


def test_of_eight_processes_one_opens_the_round_and_all_see_the_same_one(line):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(line.store.root), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abcdefgh"
    ]
    opened = {racer.communicate("go\n", timeout=60)[0].strip() for racer in racers}
    assert len(opened) == 1
    assert entries(line) == ["started", "opened"]


# --- a bad batch --------------------------------------------------------------------------------


def test_revoking_a_batch_undoes_its_round_and_all_later_ones(line):
    kept(line, 4, batch(1))
    kept(line, 5, batch(2), batch(3))
    kept(line, 6, batch(4))
    state = line.revoke(batch(2), "wrong labels")
    assert state.champion == champion(4)
    assert state.requeued == ((batch(3),), (batch(4),))


def test_model_with_a_revoked_batch_never_becomes_champion_again(line):
    kept(line, 4, batch(1))
    line.roll_back(champion("start"), "users complain")
    line.revoke(batch(1), "wrong labels")
    with pytest.raises(UsageError, match="no such earlier champion"):
        line.earlier_champion()
    for change in (line.promote, line.roll_back):
        with pytest.raises(UsageError, match=r"trained on a revoked batch \(1.jsonl\)"):
            change(champion(4), "it was better")
    assert line.state().champion == champion("start")


def test_rounds_lost_to_a_revoked_batch_are_retrained_one_by_one(line):
    kept(line, 4, batch(1), batch(2))
    kept(line, 5, batch(3))
    line.revoke(batch(1), "wrong labels")
    assert line.open((batch(9),)).open is None, "the requeued batches come first"
    kept(line, 6, batch(2))
    state = kept(line, 7, batch(3))
    assert [[b.file for b in opened.batches] for opened, _ in state.lineage] == [
        ["2.jsonl"],
        ["3.jsonl"],
    ]


def test_revoking_a_batch_that_no_champion_has_seen_keeps_the_champion(line):
    line.open((batch(1),))
    line.close(4, champion(4), outcome="rejected", why="worse")
    state = line.revoke(batch(1), "wrong labels")
    assert (state.champion, state.requeued) == (champion("start"), ())


def test_revoking_a_batch_of_the_open_round_voids_the_round(line):
    line.open((batch(1), batch(2)))
    line.revoke(batch(1), "wrong labels")
    state = line.close(4, champion(4), outcome="kept", why="better")
    assert state.champion == champion("start")
    assert state.requeued == ((batch(2),),)


def test_model_of_an_open_round_is_barred_once_its_batch_is_revoked(line):
    """Its manifest says what it contains; the ledger does not know the model yet."""
    line.open((batch(1), batch(2)))
    put_model(line.store, 4, "start", batch(1), batch(2))
    line.revoke(batch(1), "wrong labels")
    with pytest.raises(UsageError, match=r"trained on a revoked batch \(1.jsonl\)"):
        line.promote(champion(4), "it looks good")


def test_a_batch_revoked_on_one_line_is_revoked_on_every_line_that_used_it(line):
    other = started(line.store, "other")
    kept(line, 4, batch(1))
    kept(other, 4, batch(1).model_copy(update={"file": "same-bytes.jsonl"}), batch(2))
    line.revoke(batch(1), "wrong labels")
    with pytest.raises(UsageError, match="trained on a revoked batch"):
        check_sound(line.store, "round 4", "merge-4")
    state = other.revoke_as_elsewhere()
    assert state.champion == champion("start")
    assert state.requeued == ((batch(2),),)


def test_a_line_that_was_given_a_revoked_model_goes_back_along_its_path(line):
    other = started(line.store, "other")
    kept(line, 4, batch(1))
    other.promote(champion(4), "from the other line")
    line.revoke(batch(1), "wrong labels")
    assert other.revoke_as_elsewhere().champion == champion("start")
    with pytest.raises(UsageError, match="trained on a revoked batch"):
        other.promote(champion(4), "again")


def test_a_round_is_overtaken_when_another_line_revokes_its_batch(line):
    other = started(line.store, "other")
    kept(other, 4, batch(1))
    line.open((batch(1), batch(2)))
    other.revoke(batch(1), "wrong labels")
    state = line.close(4, champion(4), outcome="kept", why="better")
    assert state.history[-1][1].fate == "overtaken"
    assert state.requeued == ((batch(2),),)


def test_batch_is_found_by_whatever_is_printed_of_it(line):
    hostile = batch(2).model_copy(update={"file": "\x1b[2J.jsonl"})
    kept(line, 4, batch(1), hostile)
    state = line.state()
    with pytest.raises(UsageError) as listed:
        state.find_batch("any")
    assert "\x1b" not in str(listed.value)
    name, file = str(listed.value).splitlines()[2].split()
    for reference in (name, file, hostile.file, f"inbox/{file}", hostile.digest[:12], hostile.key):
        assert state.find_batch(reference) == hostile


def test_batch_is_found_by_file_digest_or_key(line):
    kept(line, 4, batch(1), batch(2))
    state = line.state()
    for reference in ("2.jsonl", "inbox/2.jsonl", batch(2).digest[:8], batch(2).key):
        assert state.find_batch(reference) == batch(2)
    with pytest.raises(
        UsageError, match="'nonsense' matches 0 of the batches that rounds have used"
    ):
        state.find_batch("nonsense")


# --- the files ----------------------------------------------------------------------------------


def test_changed_entry_is_detected(line):
    """Even in the last entry, whose digest no later entry holds."""
    last = sorted(line.ledger.folder.iterdir())[-1]
    last.write_text(last.read_text().replace("merge-start", "merge-other"))
    with pytest.raises(ArtifactError, match=r"00000001.json is damaged"):
        line.state()


def test_any_flipped_bit_of_the_last_entry_is_detected(line):
    last = sorted(line.ledger.folder.iterdir())[-1]
    intact = last.read_bytes()
    for at in range(len(intact)):
        damaged = bytearray(intact)
        damaged[at] ^= 1 << at % 8
        last.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged"):
            line.state()


def test_replaced_entry_is_detected_by_the_next_one(line):
    kept(line, 4, batch(1))
    first, entry = sorted(line.ledger.folder.iterdir())[0], line.ledger.read()[0]
    other = Started(head=champion("other"), rounds=3)
    first.write_bytes(entry.model_copy(update={"event": other}).encoded())
    with pytest.raises(ArtifactError, match=r"00000002.json does not follow the previous entry"):
        line.state()


def test_missing_entry_is_detected(line):
    kept(line, 4, batch(1))
    sorted(line.ledger.folder.iterdir())[1].unlink()
    with pytest.raises(ArtifactError, match="the ledger was edited"):
        line.state()


def test_leftovers_of_a_killed_writer_are_not_an_entry(line):
    (line.ledger.folder / ".00000002.json.7-1").write_text('{"number": 2')
    assert line.state().champion == champion("start")
    assert kept(line, 4, batch(1)).champion == champion(4)


def test_entry_is_readable_json(line):
    kept(line, 4, batch(1))
    last = json.loads(sorted(line.ledger.folder.iterdir())[-1].read_text())
    assert last["number"] == 3
    assert last["event"]["name"] == "closed"
    assert last["event"]["fate"] == "kept"


# --- against a model ----------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Random histories of an inbox and a line, compared with a dict of each batch's status.

    A batch is free, open, spent, queued, refused, aside (its round failed) or revoked; the inbox
    may contain it under several names, or only a part of it. `batches_in` has the batches in each
    model, so whether a model contains a bad batch is known without the ledger. `paths` has the
    champions that led to each champion.
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
        self.queue: list[frozenset[int]] = []
        self.returned: set[int] = set()
        self.lost: set[str] = set()
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

    def survive(self, change, *arguments, **named):
        """Make a change in a process that dies at the drawn failpoint, then retry it in the next.

        If the entry was written before the death, the retry finds nothing left to do.
        """
        end = arm("raise", nth=self.dies_at)
        try:
            return change(*arguments, **named)
        except Broken:
            with contextlib.suppress(Overtaken):
                change(*arguments, **named)
            return self.now()
        finally:
            end()
            self.dies_at = 0

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
        outcome=st.sampled_from(["kept", "kept", "rejected", "inconclusive", "waiting", "failed"])
    )
    def close_round(self, outcome):
        assert self.open is not None
        claimed, parent, name = self.open
        put_model(self.line.store, name, parent, *map(batch, claimed))
        if outcome == "failed":
            self.line.fail(self.number, "the loss is NaN")
            assert self.now().failures[-1] == "the loss is NaN"
        self.survive(self.line.close, self.number, champion(name), outcome=outcome, why="any")
        self.open = None
        bad = {number for number in claimed if self.status[number] == "revoked"}
        if bad or parent != self.champion:
            self.mark(claimed - bad, "queued")
            self.queue = [claimed - bad, *self.queue]
            self.clear_queue()
            return
        self.mark(claimed, "aside" if outcome == "failed" else "spent")
        if outcome == "failed":
            return
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
            self.survive(self.line.promote, champion(self.waiting), "any")
            self.promoted(self.waiting)
        else:
            self.survive(self.line.decline, "any")
        self.waiting = None

    @rule(drawn=models)
    def promote(self, drawn):
        """Any model so far, also a rejected one; never one that is gone or contains a bad batch."""
        name = sorted(self.batches_in)[drawn % len(self.batches_in)]
        if self.is_bad(name) or name in self.lost:
            with pytest.raises(UsageError):
                self.line.promote(champion(name), "any")
        elif name != self.champion:
            self.survive(self.line.promote, champion(name), "any")
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
        found = self.line.earlier_champion()
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
            self.other.revoke(batch(number), "any")
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

    @rule(gate=st.sampled_from([1.5, 2.0, 3.0]))
    def adopt(self, gate):
        """A config with another gate continues the line."""
        self.identity = Identity(
            model="any",
            quantisation=None,
            sft="",
            rows=(),
            evaluation={},
            gate={"max_length_growth": gate},
        )
        self.survive(self.line.adopt, self.identity, "any")

    # --- the store ---

    @rule(drawn=models)
    def lose(self, drawn):
        """The manifest of a rejected model that no other model was made of is lost."""
        parents = {parent for parent, _ in self.rounds.values()} | {self.champion, self.waiting}
        if self.open is not None:
            parents.add(self.open[1])
        leaves = sorted(set(self.rounds) - parents - self.lost)
        if leaves:
            name = leaves[drawn % len(leaves)]
            (self.line.store.folder(champion(name).model) / "manifest.json").unlink()
            self.lost.add(name)

    @rule()
    def later_version(self):
        """Something in the store was written by a later version."""
        path = self.line.store.folder("novelty-1") / "manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"format": 99, "stage": "novelty"}')

    # --- what must hold ---

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
