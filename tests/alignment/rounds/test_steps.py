"""The steps of a round from an inbox, on the store of a finished run."""

import json
import shutil

import pytest

from alignment.config.inbox import InboxConfig
from alignment.errors import ConfigError, UsageError
from alignment.evaluate.verdict import GateResult
from alignment.execution.run_step import build
from alignment.pipeline.step import data_of, rows_of
from alignment.pipeline.steps import TakeBatch
from alignment.records.text import PreferencePair, Quarantined
from alignment.report.ancestry import ancestry_table
from alignment.rounds.ledger import Delivery, Opened
from alignment.rounds.line import RoundLine
from alignment.rounds.measure import on_line
from alignment.rounds.steps import batches_step, first_champion, inbox_of, steps_of
from alignment.store.checksum import file_sha256
from alignment.store.lineage import containing
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests.inbox import rows


@pytest.fixture(scope="module")
def store(finished, tmp_path_factory):
    """A copy of the finished run's store, to which tests may add."""
    root = tmp_path_factory.mktemp("rounds") / "store"
    shutil.copytree(finished.store.root, root)
    return Store(root=root)


@pytest.fixture(scope="module")
def config(finished):
    """The configuration of the finished run, with an inbox."""
    inbox = InboxConfig(replay_share=0.25)
    return finished.config.model_copy(update={"inbox": inbox})


def trained_on(store, finished, name):
    (ref,) = [data_of(store, finished.records[name].key)]
    return list(rows_of(store, [ref], "train", PreferencePair))


def as_row(pair, *, swapped=False):
    texts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    row = {name: [turn.model_dump() for turn in turns] for name, turns in texts.items()}
    if swapped:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return row


@pytest.fixture(scope="module")
def prepared(store, finished, config, tmp_path_factory):
    """Twelve new pairs, two that round 1 was trained on, one with swapped labels, one held out."""
    old = trained_on(store, finished, "pairs-1")
    evaluated = data_of(store, finished.records["pairs-evaluation"].key)
    held = next(iter(rows_of(store, [evaluated], "held_out", PreferencePair)))
    pairs = [*rows(0, 12), *map(as_row, old[:2]), as_row(old[2], swapped=True), as_row(held)]
    file = tmp_path_factory.mktemp("inbox") / "monday.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    batch = TakeBatch.of(file_sha256(file), str(file))
    build(store, batch, Progress())
    file.unlink()  # from here on, only the store's copy exists
    champion = first_champion(store, finished.chain)
    step = batches_step(config, store, parent=champion, number=3, batches=(batch.key,))
    return build(store, step, Progress()), batch, step


def test_line_starts_with_the_model_that_the_last_gate_passed_on(store, finished):
    champion = first_champion(store, finished.chain)
    result = GateResult.model_validate(finished.records["gate-2"].output)
    assert champion.evaluation == result.evaluation
    assert champion.model == store.open(result.evaluation).parents["model"]


def test_every_row_of_a_batch_is_kept_or_has_a_reason(store, prepared):
    record, _, _ = prepared
    ref = data_of(store, record.key)
    assert record.metrics["new"] == 12
    assert ref.quarantined == {
        "conflicting_label": 1,
        "in_evaluation_set": 1,
        "used_by_earlier_round": 2,
    }
    lines = store.path(ref.quarantine).read_text().splitlines()
    details = {row.reason: row.detail for row in map(Quarantined.model_validate_json, lines)}
    assert details["conflicting_label"] == "pairs-1 was trained on the opposite preference"
    assert details["in_evaluation_set"] == "its prompt is held out by pairs-evaluation"


def test_a_quarter_of_the_rows_are_replayed(store, finished, prepared):
    """12 new rows at a replay share of 1/4: 12 * (1/4) / (3/4) = 4 replayed ones, 16 in total."""
    record, _, _ = prepared
    ref = data_of(store, record.key)
    found = [pair.id for pair in rows_of(store, [ref], "train", PreferencePair)]
    line = [pair.id for n in (1, 2) for pair in trained_on(store, finished, f"pairs-{n}")]
    assert len(found) == len(set(found)) == ref.kept == 16
    assert len(set(found) & set(line)) == 4


def test_the_key_of_a_batch_does_not_depend_on_its_path(prepared):
    _, batch, _ = prepared
    assert TakeBatch.of(batch.digest, "elsewhere/tuesday.jsonl").key == batch.key


def test_round_trains_on_the_champion_and_is_evaluated_on_its_rows(
    store, config, prepared, finished
):
    _, batch, step = prepared
    champion = first_champion(store, finished.chain)
    claimed = Delivery(digest=batch.digest, key=batch.key, file=batch.file)
    round_ = steps_of(config, store, Opened(number=3, parent=champion, batches=(claimed,)))
    evaluation = store.open(champion.evaluation)
    assert round_.pairs.key == step.key, "the step that counted the pairs is the one to train on"
    assert round_.train.policy == round_.handover.policy == champion.model
    assert round_.evaluate.data == evaluation.parents_as("data")
    assert round_.evaluate.base == finished.records["evaluate-base"].key
    assert round_.gate is not None
    assert (round_.gate.champion, round_.gate.against) == (champion.model, champion.evaluation)
    assert [s.name for s in round_.steps()] == [
        "dpo-3",
        "merge-dpo-3",
        "evaluate-round-3",
        "gate-3",
    ]

    dpo = config.dpo.model_copy(update={"reference": "anchor"})
    anchor = champion.model_copy(update={"model": finished.records["merge-sft"].key})
    opened = Opened(number=3, parent=champion, anchor=anchor, batches=(claimed,))
    kept_close = steps_of(config.model_copy(update={"dpo": dpo}), store, opened)
    assert kept_close.reference is not None
    assert kept_close.reference.model == anchor.model
    assert kept_close.train.reference == kept_close.reference.key


def test_a_batch_that_was_only_prepared_is_in_no_model(store, prepared):
    _, batch, _ = prepared
    assert containing(store, batch.key) == []


def test_only_a_model_can_be_a_champion(store, finished):
    line = RoundLine(store=store, name="adapters")
    line.start(first_champion(store, finished.chain), rounds=2)
    with pytest.raises(UsageError, match="'dpo-1' is not a model"):
        on_line(line, finished.records["dpo-1"].key, build=refuse_to_build)


def refuse_to_build(step):
    raise AssertionError(f"{step.name} is built")


def test_ancestry_has_a_row_for_each_model_with_data_metrics_and_verdict(store, finished):
    table = ancestry_table(store, finished.records["merge-dpo-2"].key)
    rows = [[cell.plain for cell in row] for row in table.rows]
    assert [row[0] for row in rows] == ["base", "merge-sft", "merge-dpo-1", "merge-dpo-2"]
    kept = len(trained_on(store, finished, "pairs-2"))
    assert rows[3][2] == f"pairs-2: {kept} rows"
    assert rows[3][-1].split()[0] in ("kept", "rejected")
    assert rows[1][-1].endswith(" against base (plain gate)")


def test_config_without_an_inbox_says_what_to_add(finished):
    with pytest.raises(ConfigError, match=r"no `inbox`.*Add one: inbox: \{path: FOLDER"):
        inbox_of(finished.config)
