"""Whole rounds in which only training and evaluation are left out: what the line makes of them."""

import json
import os
import shutil
import time

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.errors import ArtifactError, ConfigError, DataError, ModelError, UsageError
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps import AnchorGate, EvaluateModel, TrainDpo
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.identity import identity_of
from alignment.rounds.inbox import why_unreadable
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.measure import on_line
from alignment.rounds.notes import read_notes
from flows.line_printing import print_lines
from tests.alignment.artifacts import record_of
from tests.faults.simulate import History, decided, imitation


class EveryRoundIsKept(History):
    def verdict(self, step):
        return decided(step, passed=True)


@pytest.fixture
def history(tmp_path):
    """A started line with an empty inbox, whose gate keeps every round."""
    made = EveryRoundIsKept(0, tmp_path)
    made.config = changed(made.config, inbox={"promotion": {"name": "gate"}})
    return made


def changed(config, **settings):
    """The config with other settings; those of the inbox are merged."""
    dumped = config.model_dump(mode="json", exclude_unset=True)
    inbox = {**dumped["inbox"], **settings.pop("inbox", {})}
    return PipelineConfig.model_validate({**dumped, **settings, "inbox": inbox})


def drop(history, name, *, rows=20, text=None):
    row = {"chosen": "yes", "rejected": "no"}
    lines = [json.dumps({"prompt": f"{name} {number}", **row}) + "\n" for number in range(rows)]
    path = history.inbox / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines) if text is None else text)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def round_(history, config=None, *, line=None, build=None, **others):
    hooks = Hooks(
        run_chain=lambda: None,
        build=build or history.build,
        inspect=why_unreadable,
        **others,
    )
    return RoundDriver(config or history.config, line or history.line, hooks).run()


def failing(history, kind, error):
    """A build that fails for one kind of step."""

    def build(step):
        if isinstance(step, kind):
            raise error
        history.build(step)

    return build


def test_a_round_that_its_champion_cannot_do_claims_no_batch(history):
    def refuse(champion, steps):
        raise ModelError(f"{champion.label}: {steps[0].name}")

    drop(history, "a.jsonl")
    with pytest.raises(ModelError, match="start: dpo-1"):
        round_(history, try_model=refuse)
    assert history.line.state().open is None
    assert round_(history).outcome == "kept"


# --- identity ------------------------------------------------------------------------------------


def test_a_round_with_the_config_of_another_line_is_refused_with_what_differs(history):
    drop(history, "a.jsonl")
    assert round_(history).outcome == "kept"
    other = changed(
        history.config,
        model={"name": "hub", "id": "someone/large"},
        gate={"name": "plain", "max_length_growth": 3.0},
    )
    before = history.line.ledger.read()
    with pytest.raises(ConfigError) as refused:
        round_(history, other)
    assert "gate.max_length_growth: the line has 1.5, the config 3.0" in str(refused.value)
    assert "model: the line has someone/tiny@" in str(refused.value)
    assert "sft-dpo line adopt" in str(refused.value)
    assert history.line.ledger.read() == before


def test_other_data_is_another_line_once_there_is_something_to_train_on(history):
    drop(history, "a.jsonl")
    round_(history)
    source = {"name": "practice", "part": "held-out", "rows": 12}
    evaluation = history.config.model_dump(mode="json", exclude_unset=True)["evaluation"]
    other = changed(
        history.config, evaluation={**evaluation, "data": {"sources": [source], "min_rows": 0}}
    )
    assert round_(history, other).outcome == "no new data"
    drop(history, "b.jsonl")
    with pytest.raises(ConfigError, match=r"(?s)another line than 'main'.*rows: the line has"):
        round_(history, other)
    assert history.line.state().open is None


def test_a_config_with_other_training_settings_is_the_same_line(history):
    drop(history, "a.jsonl")
    round_(history)
    drop(history, "b.jsonl")
    dpo = history.config.model_dump(mode="json", exclude_unset=True)["dpo"]
    other = changed(history.config, dpo={**dpo, "learning_rate": 1e-3}, compose={"name": "stack"})
    assert round_(history, other).outcome == "kept"


def test_a_line_goes_on_when_a_source_of_its_first_stages_is_gone(history):
    source = drop(history, "../first.jsonl")
    evaluation = history.config.model_dump(mode="json", exclude_unset=True)["evaluation"]
    data = {"sources": [{"name": "file", "path": str(source)}], "min_rows": 0}
    history.config = changed(history.config, evaluation={**evaluation, "data": data})
    drop(history, "a.jsonl")
    round_(history)
    source.unlink()
    drop(history, "b.jsonl")
    assert round_(history).outcome == "kept"


def held_out(history, path):
    """The config with its evaluation rows at a path."""
    evaluation = history.config.model_dump(mode="json", exclude_unset=True)["evaluation"]
    data = {"sources": [{"name": "file", "path": str(path)}], "min_rows": 0}
    return changed(history.config, evaluation={**evaluation, "data": data})


def test_the_same_files_at_another_path_are_the_same_line(history):
    first = drop(history, "../rows.jsonl")
    history.config = held_out(history, first)
    for step in chain(history.config).steps():
        history.build(step)
    history.line.adopt(identity_of(history.config), "rows from a file")
    other = first.with_name("elsewhere") / first.name
    other.parent.mkdir()
    first.rename(other)
    drop(history, "a.jsonl")
    assert round_(history, held_out(history, other)).outcome == "kept"
    renamed = other.rename(other.with_name("others.jsonl"))
    drop(history, "b.jsonl")
    with pytest.raises(ConfigError) as refused:
        round_(history, held_out(history, renamed))
    assert f"config.sources.0.path: the line has {first}, the config {renamed}" in str(
        refused.value
    )
    assert "sft-dpo line adopt" in str(refused.value)
    drop(history, "../rows.jsonl", text='{"prompt": "x", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(ConfigError, match=r"digest: the line has \w+, the config \w+"):
        round_(history, held_out(history, first))


def test_an_old_line_takes_the_identity_of_the_first_config_with_its_base_model(history):
    assert history.line.state().identity is None
    drop(history, "a.jsonl")
    other = changed(history.config, model={"name": "hub", "id": "someone/large"})
    with pytest.raises(ConfigError, match="model: the line has someone/tiny@"):
        round_(history, other)
    round_(history)
    assert history.line.state().identity is not None


# --- evidence ------------------------------------------------------------------------------------


def put_model(history, name, *, base="base-0", rows="base-0"):
    """A model of another run, evaluated on other rows."""
    for key, parents in (
        (f"merge-{name}", {"policy": base}),
        (f"evaluate-{name}", {"model": f"merge-{name}", "data 1": rows}),
    ):
        history.store.commit(record_of(key, parents=parents), history.store.workspace(key))
    return Champion(model=f"merge-{name}", evaluation=f"evaluate-{name}", label=name)


def test_a_promoted_model_is_evaluated_on_the_rows_of_the_line(history):
    history.store.commit(record_of("pairs-five"), history.store.workspace("pairs-five"))
    put_model(history, "other", rows="pairs-five")
    built = []

    def build(step):
        built.append(step)
        history.build(step)

    champion = on_line(history.line, "merge-other", build=build, settings=history.config.evaluation)
    assert champion.evaluation != "evaluate-other"
    evaluation = built[-1]
    assert isinstance(evaluation, EvaluateModel)
    assert (evaluation.model, evaluation.data) == ("merge-other", ("base-0",))
    found = on_line(
        history.line, "merge-other", build=built.append, settings=history.config.evaluation
    )
    assert (found, built[-1]) == (champion, evaluation), "found by model and rows"


def test_a_line_that_was_moved_to_other_rows_goes_back_to_its_own(history):
    history.store.commit(record_of("pairs-five"), history.store.workspace("pairs-five"))
    history.line.promote(put_model(history, "other", rows="pairs-five"), "as earlier versions did")
    drop(history, "a.jsonl")
    assert round_(history).outcome == "kept"
    champion = history.line.state().champion
    record = history.store.open(champion.evaluation)
    assert record.parents_as("data") == ("base-0",)
    against = history.store.open(record.parents["parent"])
    assert against.parents_as("data") == ("base-0",), "the champion was measured again"


def test_a_model_on_another_base_belongs_on_another_line(history):
    other = record_of("base-1", config={"digest": "another"})
    history.store.commit(other, history.store.workspace("base-1"))
    put_model(history, "other", base="base-1")
    with pytest.raises(UsageError, match="built on another base model"):
        on_line(history.line, "merge-other", build=history.build)


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["manifest.json", "weights"])
def test_a_damaged_champion_is_built_again_before_a_round_starts_from_it(history, file):
    drop(history, "a.jsonl")
    champion = round_(history).state.champion
    for key in (champion.model, champion.evaluation):
        (history.store.folder(key) / file).write_text("other")
    drop(history, "b.jsonl")
    assert round_(history).outcome == "kept"
    assert history.store.open(champion.model).key == champion.model
    assert list(history.store.root.glob(f"damaged/{champion.model}-*"))


def test_a_damaged_ancestor_is_built_again_from_its_parents(history):
    drop(history, "a.jsonl")
    round_(history)
    opened, _ = history.line.state().history[0]
    (trained,) = [key for key in history.store.list_keys() if key.startswith("dpo-")]
    for key in (opened.batches[0].key, trained):
        shutil.rmtree(history.store.folder(key))
    drop(history, "b.jsonl")
    assert round_(history).outcome == "kept"
    assert history.store.find(trained) is not None


def test_what_cannot_be_built_again_is_said_before_a_batch_is_claimed(history):
    drop(history, "a.jsonl").rename(history.inbox.parent / "gone")
    drop(history, "a.jsonl")
    round_(history)
    opened, _ = history.line.state().history[0]
    (history.inbox / "a.jsonl").unlink()
    shutil.rmtree(history.store.folder(opened.batches[0].key))
    drop(history, "b.jsonl")
    with pytest.raises(
        ArtifactError, match=r"(?s)batch-.* cannot be built again.*sft-dpo rollback"
    ):
        round_(history)
    assert history.line.state().open is None
    history.line.roll_back(history.line.earlier_champion(), "it cannot be built again")
    assert round_(history).outcome == "kept"


def test_no_batch_is_spent_on_a_round_that_the_gate_could_not_keep(history):
    drop(history, "a.jsonl")
    round_(history)
    config = changed(history.config, gate={"name": "anchored", "rounds": 1})
    history.line.adopt(identity_of(config), "a stricter gate")
    drop(history, "b.jsonl")
    with pytest.raises(UsageError, match=r"1 verdicts .* confirm it: sft-dpo promote champion"):
        round_(history, config)
    state = history.line.state()
    assert (state.open, state.rounds) == (None, 1)
    assert state.champion is not None
    history.line.promote(state.champion, "read ten replies")
    history.line.adopt(identity_of(history.config), "back")
    assert round_(history).outcome == "kept", "with the batch that waited"


class DecidesByAnchor(EveryRoundIsKept):
    def build(self, step):
        if step.stage != "anchored":
            return super().build(step)
        if self.store.reuse(step.key) is None:
            workspace = self.store.workspace(step.key)
            self.store.commit(imitation(step, output=self.verdict(step)), workspace)
        return None


@pytest.fixture
def anchored(tmp_path):
    """A line under the anchored gate, with one kept round and a suite from a file."""
    made = DecidesByAnchor(0, tmp_path)
    suite = tmp_path / "suite.jsonl"
    suite.write_text(json.dumps({"prompt": "2 + 2?", "verifier": four}) + "\n")
    evaluation = made.config.model_dump(mode="json", exclude_unset=True)["evaluation"]
    made.config = changed(
        made.config,
        evaluation={**evaluation, "suites": [{"name": "file", "path": str(suite)}]},
        gate={"name": "anchored"},
        inbox={"promotion": {"name": "gate"}},
    )
    drop(made, "a.jsonl")
    assert round_(made).outcome == "kept"
    return made


four = {"name": "last_number", "number": 4}


def compared(history, name):
    """The evaluations that a gate compared: of the round, its parent and the anchor."""
    (gate,) = [record for record in history.store.records() if record.name == name]
    return [history.store.open(gate.parents[r]) for r in ("evaluation", "against", "anchor")]


def test_models_are_measured_again_where_a_file_of_a_suite_changed(anchored):
    before = compared(anchored, "gate-1")[0].config["benchmarks"]
    (suite,) = anchored.config.evaluation.suites
    suite.path.write_text(json.dumps({"prompt": "2 + 2?", "verifier": {**four, "number": 5}}))
    drop(anchored, "b.jsonl")
    assert round_(anchored).outcome == "kept"
    (now,) = {record.config["benchmarks"] for record in compared(anchored, "gate-2")}
    assert now != before


def test_the_anchor_too_is_measured_under_an_adopted_evaluation(anchored):
    evaluation = anchored.config.model_dump(mode="json", exclude_unset=True)["evaluation"]
    other = changed(anchored.config, evaluation={**evaluation, "max_new_tokens": 7})
    anchored.line.adopt(identity_of(other), "shorter replies")
    drop(anchored, "b.jsonl")
    assert round_(anchored, other).outcome == "kept"
    assert [r.config["config"]["max_new_tokens"] for r in compared(anchored, "gate-2")] == [7, 7, 7]


def approve(history):
    history.line.promote(history.line.state().champion, "read ten replies")


def during(history, kind, act):
    """A build after which something happens once, when it has built a step of this kind."""
    left = [act]

    def build(step):
        history.build(step)
        if isinstance(step, kind) and left:
            left.pop()(history)

    return build


def test_a_round_is_judged_from_the_model_that_was_approved_while_it_was_trained(anchored):
    drop(anchored, "b.jsonl")
    assert round_(anchored, build=during(anchored, TrainDpo, approve)).outcome == "kept"
    _, parent, anchor = compared(anchored, "gate-2")
    assert anchor == parent, "not from the line's first model"
    state = anchored.line.state()
    (gate,) = [record for record in anchored.store.records() if record.name == "gate-2"]
    assert (gate.config["look"], state.looks) == (1, 1)
    assert state.history[-1][1].gate == gate.key


def test_a_verdict_from_a_model_that_is_no_longer_the_anchor_decides_nothing(anchored):
    drop(anchored, "b.jsonl")
    champion = anchored.line.state().champion
    done = round_(anchored, build=during(anchored, AnchorGate, approve))
    assert done.outcome == "overtaken"
    assert done.message.startswith("the champion or the anchor changed meanwhile; ")
    assert (done.state.champion, done.state.looks) == (champion, 0)
    assert round_(anchored).outcome == "kept", "with the same batch"


@pytest.fixture
def ahead(anchored):
    """A line with an anchor that its rounds did not make, a later champion, and a batch to come."""
    anchored.put("merge-9", {"policy": "base-0"})
    anchored.put("evaluate-9", {"model": "merge-9", "data 1": "base-0"})
    anchored.line.promote(Champion(model="merge-9", evaluation="evaluate-9", label="nine"), "any")
    drop(anchored, "b.jsonl")
    assert round_(anchored).outcome == "kept"
    drop(anchored, "c.jsonl")
    return anchored


def test_a_damaged_evaluation_of_the_anchor_is_made_again(ahead):
    approve(ahead)
    anchor = ahead.line.state().anchor
    assert round_(ahead).outcome == "kept"
    (ahead.store.folder(anchor.evaluation) / "weights").write_text("other")
    drop(ahead, "d.jsonl")
    assert round_(ahead).outcome == "kept"
    assert ahead.store.open(anchor.evaluation).key == anchor.evaluation


def test_a_line_goes_on_when_rows_of_its_first_evaluation_are_damaged(ahead):
    (ahead.store.folder("evaluate-0") / "weights").write_text("other")
    assert round_(ahead).outcome == "kept"


def test_an_anchor_that_is_lost_is_said_before_a_batch_is_claimed(ahead):
    (ahead.store.folder("evaluate-9") / "weights").write_text("other")
    before = ahead.line.ledger.read()
    said = r"(?s)evaluate-9, .* the anchor of .* cannot be built .* promote champion --line main"
    with pytest.raises(ArtifactError, match=said):
        round_(ahead)
    assert ahead.line.ledger.read() == before
    approve(ahead)
    assert round_(ahead).outcome == "kept"


# --- failures ------------------------------------------------------------------------------------


class Undecided(History):
    """A line whose gate finds the same in every round."""

    finding = ""

    def verdict(self, step):
        output = decided(step, passed=False)
        output["verdict"]["checks"][0] = {"name": "rows", "finding": self.finding, "words": "few"}
        return output


@pytest.mark.parametrize("finding", ["inconclusive", "cannot be judged"])
def test_a_round_that_the_gate_could_not_decide_is_not_recorded_as_rejected(
    tmp_path, capsys, finding
):
    history = Undecided(0, tmp_path)
    history.finding = finding
    before = history.line.state().champion
    drop(history, "a.jsonl")
    done = round_(history)
    assert done.outcome == finding
    assert done.gate.startswith("gate-")
    state = history.line.state()
    assert [closed.fate for _, closed in state.history] == [finding]
    assert (state.champion, state.looks, len(state.spent)) == (before, 1, 1)
    print_lines(history.store, history.store.records())
    assert f"round 1: {finding} (plain gate): new " in capsys.readouterr().out


def test_a_round_that_fails_in_the_same_way_is_set_aside_and_the_line_goes_on(history):
    drop(history, "a.jsonl")
    build = failing(history, TrainDpo, DataError("the loss is NaN"))
    for _ in range(2):
        with pytest.raises(DataError, match="NaN"):
            round_(history, build=build)
    done = round_(history, build=build)
    assert done.outcome == "failed"
    assert "failed 3 times in the same way, so its batches are set aside: a.jsonl" in done.message
    assert [batch.file for batch in done.state.set_aside] == ["a.jsonl"]
    assert "set aside" in str(done.notes[0])
    drop(history, "b.jsonl")
    after = round_(history).state
    assert [[b.file for b in opened.batches] for opened, _ in after.lineage] == [["b.jsonl"]]


def test_different_failures_are_tried_again(history):
    drop(history, "a.jsonl")
    for attempt in range(5):
        error = DataError(f"failure {attempt}")
        with pytest.raises(DataError, match="failure"):
            round_(history, build=failing(history, TrainDpo, error))
    assert round_(history).outcome == "kept"


def test_a_failure_outside_the_round_is_not_counted(history):
    drop(history, "a.jsonl")
    for _ in range(5):
        with pytest.raises(ConfigError):
            round_(history, build=failing(history, TrainDpo, ConfigError("no such device")))
    assert history.line.state().failures == ()


def test_batches_of_a_failed_round_are_used_again_when_a_person_returns_them(history):
    path = drop(history, "a.jsonl")
    history.config = changed(history.config, inbox={"max_failures": 1})
    round_(history, build=failing(history, TrainDpo, DataError("the loss is NaN")))
    path.unlink()
    state = history.line.state()
    history.line.give_back(state.set_aside, "mended")
    assert round_(history).outcome == "kept", "from the store's copy"
    assert [b.file for b in history.line.state().history[-1][0].batches] == ["a.jsonl"]


def test_a_round_that_waits_says_how_to_approve_it(history, capsys):
    history.config = changed(history.config, inbox={"promotion": {"name": "person"}})
    drop(history, "a.jsonl")
    done = round_(history)
    assert done.outcome == "waiting"
    promote = f"waits for approval: sft-dpo promote {done.state.waiting.head.model}"
    assert promote in done.message
    assert promote in round_(history).message
    print_lines(history.store, history.store.records())
    assert promote in capsys.readouterr().out
    history.line.promote(done.state.waiting.head, "read ten replies")
    print_lines(history.store, history.store.records())
    assert "1 round from the inbox: 1 approved" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_does_not_keep_the_round_open(history):
    drop(history, "a.jsonl")

    def report(_):
        raise OSError("no space left for the report")

    assert round_(history, report=report).outcome == "kept"


# --- the inbox -----------------------------------------------------------------------------------


def test_every_unused_file_is_named_with_its_reason(history):
    drop(history, "a.jsonl")
    drop(history, "colours.jsonl", text='{"colour": 1}\n')
    drop(history, "notes.txt", text="hello")
    drop(history, "cut.jsonl", text='{"prompt":')
    os.mkfifo(history.inbox / "pipe.jsonl")
    done = round_(history)
    assert (done.outcome, done.refused) == ("kept", 1)
    named = {note.file.rpartition("/")[2]: note.why for note in done.notes}
    assert named["colours.jsonl"].startswith("refused: ")
    assert named["notes.txt"].startswith("ignored: ")
    assert named["cut.jsonl"] == "its last line is truncated"
    assert named["pipe.jsonl"] == "it is not a regular file"
    assert read_notes(history.line) == done.notes
    again = round_(history)
    assert (again.refused, again.notes) == (0, done.notes), "named every time, refused once"


def test_a_round_leaves_nothing_in_the_store_that_others_can_read(history):
    drop(history, "a.jsonl")
    drop(history, "notes.txt", text="hello")
    assert round_(history).outcome == "kept"
    assert not [path for path in history.store.root.rglob("*") if path.stat().st_mode & 0o077]


def test_a_round_that_ends_in_an_error_names_what_it_does_not_use_too(history):
    drop(history, "a.jsonl")
    drop(history, "notes.txt", text="hello")
    with pytest.raises(DataError) as failed:
        round_(history, build=failing(history, TrainDpo, DataError("the loss is NaN")))
    (note,) = read_notes(history.line)
    assert "notes.txt: ignored: " in str(note)
    assert str(failed.value) == f"the loss is NaN\nnot used: {note}"
    assert history.line.state().failures == ("the loss is NaN",)


def test_the_same_bytes_under_two_names_are_one_batch_with_the_first_name(history):
    text = drop(history, "b.jsonl").read_text()
    drop(history, "a.jsonl", text=text)
    round_(history)
    (batch,) = history.line.state().history[0][0].batches
    assert batch.file == "a.jsonl"


def test_a_missing_inbox_is_named(history):
    history.inbox.rmdir()
    (note,) = round_(history).notes
    assert note.why.startswith("the inbox is not there, so no file was looked at; make it")


def test_a_batch_refused_under_a_wrong_format_is_read_under_the_right_one(history):
    drop(history, "a.jsonl")
    wrong = changed(history.config, inbox={"format": {"name": "hh"}})
    assert round_(history, wrong).refused == 1
    assert round_(history).outcome == "kept"


def test_a_refused_batch_is_read_again_when_a_person_asks(history):
    drop(history, "a.jsonl", text='{"colour": 1}\n')
    assert round_(history).refused == 1
    refused = history.line.state().refused
    history.line.give_back(tuple(one.batch for one in refused.values()), "look again")
    done = round_(history)
    assert done.outcome == "no new data"
    assert refused.keys() == done.state.refused.keys(), "refused again, with a new entry"


def test_a_batch_that_cannot_be_prepared_is_refused_and_the_others_go_on(history):
    drop(history, "a.jsonl")
    drop(history, "b.jsonl", text='{"prompt": "poison", "chosen": "yes", "rejected": "no"}\n')

    def build(step):
        if step.stage == "intake" and any(
            "poison" in path.read_text()
            for key in step.batches
            for path in history.store.folder(key).glob("*.jsonl")
        ):
            raise ValueError("an error that no one knows")
        history.build(step)

    done = round_(history, build=build)
    assert (done.outcome, done.refused) == ("kept", 1)
    assert "an error that no one knows" in str(done.notes[0])


def test_a_file_named_like_a_manifest_is_a_batch_like_any_other(history):
    rows = [{"prompt": f"{n}", "chosen": "yes", "rejected": "no"} for n in range(20)]
    drop(history, "manifest.json", text=json.dumps(rows))
    assert round_(history).outcome == "kept"
    (batch,) = history.line.state().history[0][0].batches
    assert history.store.open(batch.key).output == {"file": "batch-manifest.json"}


def test_a_batch_revoked_on_another_line_is_not_taken(history):
    drop(history, "a.jsonl")
    round_(history)
    (batch,) = history.line.state().history[0][0].batches
    other = RoundLine(store=history.store, name="other")
    other.start(Champion(model="merge-0", evaluation="evaluate-0", label="start"), rounds=0)
    history.line.revoke(batch, "wrong labels")
    config = changed(history.config, inbox={"line": "other"})
    assert round_(history, config, line=other).outcome == "no new data"
