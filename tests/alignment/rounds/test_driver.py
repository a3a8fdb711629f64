"""Whole rounds in which only training and evaluation are left out: what the line makes of them."""

import shutil

import pytest

from alignment.errors import ArtifactError, ConfigError, ModelError, UsageError
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps import EvaluateModel
from alignment.rounds.identity import identity_of
from alignment.rounds.ledger import Champion
from alignment.rounds.measure import on_line
from tests.alignment.artifacts import record_of
from tests.alignment.rounds.played import changed, drop, round_


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
