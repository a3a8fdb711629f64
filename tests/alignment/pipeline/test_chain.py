from collections.abc import Iterator

import pytest

from alignment.config.pipeline import NoSft, PipelineConfig
from alignment.data.read.sources import FileSource
from alignment.errors import ModelError
from alignment.execution.run_step import build, run_step
from alignment.pipeline.chain_builder import chain, rebuild_rounds
from alignment.pipeline.data_sets import seed_for
from alignment.pipeline.plan import plan
from alignment.pipeline.steps import AnchorGate
from alignment.records.evaluation import EvalReport
from alignment.records.refs import AdapterRef, ModelRef
from alignment.store.progress import Mark, Progress
from alignment.store.store import Store

EVALUATIONS = {f"evaluate-{name}" for name in ("base", "sft", "round-1", "round-2", "control")}
CONTROL = {"control", "merge-control", "evaluate-control"}
ROUND_GATES = {"gate-1", "gate-2"}
GATES = {"gate-sft", *ROUND_GATES}
ROUND_1 = {"dpo-1", "merge-dpo-1", "evaluate-round-1", "gate-1"}
ROUND_2 = {"dpo-2", "merge-dpo-2", "evaluate-round-2", "gate-2"}


def keys(settings):
    """Key of every step of a run by name. Reads the base model's bytes, runs nothing."""
    return {step.name: step.key for step in chain(PipelineConfig.model_validate(settings)).steps()}


@pytest.fixture
def changed(tiny_settings):
    """A function that returns the names of the steps whose keys change with the settings."""
    before = keys(tiny_settings)

    def compare(change):
        change(tiny_settings)
        after = keys(tiny_settings)
        return {
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        }

    return compare


def files(store) -> Iterator[tuple[str, int, int]]:
    for path in sorted(store.root.rglob("*")):
        if path.is_file() and "locks" not in path.parts:
            yield str(path), path.stat().st_ino, path.stat().st_mtime_ns


# --- the order ---------------------------------------------------------------------------------


def test_every_step_comes_after_its_parents(tiny_settings):
    seen: set[str] = set()
    for step in chain(PipelineConfig.model_validate(tiny_settings)).steps():
        assert {parent.key for parent in step.parents} <= seen, step.name
        seen.add(step.key)


def test_two_rounds_and_a_control_are_twenty_one_steps(tiny_settings):
    """Base 1, data sets 4, SFT and its merge 2, evaluations 2, SFT's check 1, rounds 8, control 3.

    1 + 4 + 2 + 2 + 1 + 8 + 3 = 21, each with its own key.
    """
    names = keys(tiny_settings)
    assert len(names) == len(set(names.values())) == 21


def test_without_a_gate_nothing_judges_the_rounds(tiny_settings):
    tiny_settings["gate"] = None
    assert not ROUND_GATES & keys(tiny_settings).keys()


def test_each_gate_compares_its_round_with_the_model_it_started_from(tiny_settings):
    names = chain(PipelineConfig.model_validate(tiny_settings))
    first, second = (round_.gate for round_ in names.rounds)
    assert first is not None
    assert second is not None
    assert (first.champion, first.against) == (names.handover.key, names.evaluate_sft.key)
    kept = names.rounds[0]
    assert (second.champion, second.against) == (kept.handover.key, kept.evaluate.key)
    assert second.candidate == names.rounds[1].handover.key


def test_anchored_gate_compares_every_round_with_the_model_before_the_rounds(tiny_settings):
    tiny_settings["gate"] = {"name": "anchored"}
    names = chain(PipelineConfig.model_validate(tiny_settings))
    gates = [round_.gate for round_ in names.rounds if isinstance(round_.gate, AnchorGate)]
    anchor, kept = names.evaluate_sft.key, names.rounds[0].evaluate.key
    assert [(gate.anchor, gate.against, gate.look) for gate in gates] == [
        (anchor, anchor, 1),
        (anchor, kept, 2),
    ]


def test_data_given_for_evaluation_is_used_whole(tiny_settings, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\n')
    tiny_settings["evaluation"]["data"] = {"sources": [{"name": "file", "path": str(file)}]}
    held_out = chain(PipelineConfig.model_validate(tiny_settings)).held_out
    assert held_out is not None
    (source,) = held_out.config.sources
    assert isinstance(source, FileSource)
    assert source.use == "held_out"


def test_gate_settings_rebuild_no_model(changed):
    def change(settings):
        settings["gate"] = {"name": "plain", "max_stop_drop": 0.5}

    assert changed(change) == ROUND_GATES


def test_round_two_starts_from_round_one(tiny_settings):
    names = chain(PipelineConfig.model_validate(tiny_settings))
    first, second = names.rounds
    assert first.train.policy == names.handover.key
    assert second.train.policy == first.handover.key
    assert second.evaluate.parent == first.evaluate.key


def test_a_round_after_a_rejected_one_starts_from_the_champion(tiny_settings):
    """Of three rounds the second is rejected: the policy of the third is the first's model.

    The settings of the gate that rejected it are not part of the third round's keys.
    """
    sources = [{"name": "practice", "part": "round-3", "rows": 16}]
    tiny_settings["rounds"].append({"data": {"sources": sources}})
    config = PipelineConfig.model_validate(tiny_settings)
    all_kept = chain(config)
    rejected = chain(config, lambda gate: gate.name != "gate-2")
    assert rejected.rounds[:2] == all_kept.rounds[:2]
    first, _, third = rejected.rounds
    assert third.train.policy == first.handover.key
    assert third.evaluate.parent == first.evaluate.key
    assert third.gate is not None
    assert (third.gate.champion, third.gate.against) == (first.handover.key, first.evaluate.key)
    assert rejected.control == all_kept.control
    assert rebuild_rounds(all_kept, config, lambda gate: gate.name != "gate-2") == rejected
    tiny_settings["gate"] = {"name": "plain", "max_stop_drop": 0.5}
    other = chain(PipelineConfig.model_validate(tiny_settings), lambda g: g.name != "gate-2")
    assert other.rounds[2].train == third.train


def test_no_round_shares_a_seed_with_another_purpose(tiny_settings):
    steps = chain(PipelineConfig.model_validate(tiny_settings)).steps()
    training = [step.seed for step in steps if step.stage in ("sft", "dpo")]
    assert len(set(training)) == len(training) == 4
    assert seed_for(0, "dpo-1") == seed_for(0, "dpo-1") != seed_for(1, "dpo-1")


# --- what a change rebuilds --------------------------------------------------------------------


def test_changing_beta_rebuilds_only_dpo_and_later(changed):
    def change(settings):
        settings["dpo"]["loss"] = {"name": "sigmoid", "beta": 0.2}

    assert changed(change) == ROUND_1 | ROUND_2


def test_changing_the_beta_of_round_two_leaves_round_one(changed):
    def change(settings):
        beta = {"name": "sigmoid", "beta": 0.2}
        settings["rounds"][1]["training"] = {**settings["dpo"], "loss": beta}

    assert changed(change) == ROUND_2


def test_changing_round_twos_data_leaves_round_ones_training(changed):
    """All evaluations change, since every model is evaluated on the held-out rows of every round.

    The control changes, since it imitates the chosen replies of all rounds.
    """

    def change(settings):
        settings["rounds"][1]["data"]["sources"][0]["rows"] = 17

    assert changed(change) == {"pairs-2"} | (ROUND_2 | EVALUATIONS | CONTROL | GATES)


def test_changing_the_seed_changes_all_but_the_base_model(changed, tiny_settings):
    everything = set(keys(tiny_settings))

    def change(settings):
        settings["seed"] = 1

    assert changed(change) == everything - {"base"}


def test_moving_the_store_or_renaming_the_run_changes_nothing(changed):
    def change(settings):
        settings.update(store="elsewhere", name="other")

    assert changed(change) == set()


def test_adding_a_round_keeps_the_training_of_earlier_ones(tiny_settings):
    config = PipelineConfig.model_validate(tiny_settings)
    longer, shorter = (
        {step.name: step.key for step in chain(c).steps()} for c in (config, config.first_rounds(1))
    )
    for name in ("base", "conversations", "sft", "merge-sft", "pairs-1", "dpo-1", "merge-dpo-1"):
        assert shorter[name] == longer[name]


def test_a_run_without_sft_has_no_sft_data_and_no_control(tiny_settings):
    tiny_settings["sft"] = {"name": "none"}
    names = keys(tiny_settings)
    assert not {"sft", "conversations", "control"} & names.keys()
    assert "merge-sft" in names


def test_one_value_switches_from_merging_to_stacking(tiny_settings, changed):
    """Data and SFT training stay; every step from the first handover on changes."""
    before = set(keys(tiny_settings))

    def change(settings):
        settings["compose"] = {"name": "stack"}

    stacks = {name.replace("merge-", "stack-") for name in before if name.startswith("merge-")}
    kept = before - changed(change)
    assert kept == {
        *("base", "conversations", "pairs-1", "pairs-2", "pairs-evaluation", "sft"),
        "evaluate-base",
    }
    assert stacks <= set(keys(tiny_settings))


# --- an SFT adapter from elsewhere -------------------------------------------------------------


def merged(config, name):
    """The record of one merge; all steps before it are built in this process."""
    store = Store(root=config.store)
    steps = {step.key: step for step in chain(config).steps()}
    wanted = next(step for step in steps.values() if step.name == name)

    def ensure(key):
        for parent in steps[key].roles.values():
            ensure(parent)
        return build(store, steps[key], Progress())

    ensure(wanted.key)
    return store.open(wanted.key)


@pytest.fixture
def with_adapter(tiny_settings):
    """A function that configures a run on an SFT adapter from a folder."""

    def configure(folder):
        tiny_settings["sft"] = {"name": "adapter", "path": str(folder)}
        tiny_settings["rounds"] = tiny_settings["rounds"][:1]
        return PipelineConfig.model_validate(tiny_settings)

    return configure


def test_without_an_sft_adapter_the_base_takes_its_place_and_the_record_says_so(
    with_adapter, tmp_path
):
    config = with_adapter(tmp_path / "no-such-folder")
    record = merged(config, "merge-sft")
    base = Store(root=config.store).open(chain(config).base.key)
    assert record.notes == ("no SFT adapter: the base model takes its place",)
    assert record.output == base.output


def test_a_missing_sft_adapter_leaves_a_record_of_its_own_and_moves_no_key(with_adapter, tmp_path):
    """It names the path; the models are those of a run without SFT, and share its keys."""
    config = with_adapter(tmp_path / "no-such-folder")
    record = merged(config, "sft")
    words = f"no SFT adapter in {tmp_path / 'no-such-folder'}: the base model takes its place"
    assert record.notes == (words,)
    assert record.stage == "fallback"
    without = chain(config.model_copy(update={"sft": NoSft()}))
    assert {step.key for step in chain(config).steps()} - {record.key} == {
        step.key for step in without.steps()
    }
    (planned,) = (
        step for step in plan(chain(config), Store(root=config.store)) if step.notes[:1] == (words,)
    )
    assert planned.name == "sft"


def test_an_sft_adapter_from_elsewhere_is_merged(with_adapter, make_adapter, tmp_path):
    adapter = make_adapter("given", seed=1)
    record = merged(with_adapter(tmp_path / "given"), "merge-sft")
    made = ModelRef.model_validate(record.output).materialised
    assert made is not None
    assert [delta.sha256 for delta in made.deltas] == [adapter.sha256]
    assert "no SFT adapter" not in str(record.notes)


def test_a_damaged_sft_adapter_is_an_error_and_never_a_fallback(
    with_adapter, make_adapter, tmp_path
):
    make_adapter("given", seed=1)
    weights = tmp_path / "given" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ModelError, match="does not fall back to the base model"):
        chain(with_adapter(tmp_path / "given"))


# --- a run -------------------------------------------------------------------------------------


def test_a_run_builds_every_step_of_the_plan(finished):
    assert finished.store.list_keys() == sorted(step.key for step in finished.chain.steps())
    assert {planned.status for planned in plan(finished.chain, finished.store)} == {"SKIP"}
    assert not any((finished.store.root / "work").iterdir()), "nothing unfinished is left"


def test_second_run_with_same_config_builds_nothing(finished):
    """The same records come back, no file in the store is touched, no progress is reported."""
    marks: list[Mark] = []
    before = list(files(finished.store))
    again = {
        step.name: run_step(finished.store, step, on_progress=marks.append)
        for step in finished.chain.steps()
    }
    assert again == finished.records
    assert list(files(finished.store)) == before
    assert marks == []


def test_a_plan_after_changing_beta_runs_only_dpo_and_later(finished):
    settings = finished.config.model_dump(mode="json")
    settings["dpo"]["loss"]["beta"] = 0.2
    planned = plan(chain(PipelineConfig.model_validate(settings)), finished.store)
    assert {step.name for step in planned if step.status == "RUN"} == ROUND_1 | ROUND_2


def test_each_adapter_was_trained_on_the_merge_of_the_stage_before(finished):
    """Compared by `ref_hash`, which covers weights, not names or paths."""
    for adapter, policy in [
        ("sft", "base"),
        ("dpo-1", "merge-sft"),
        ("dpo-2", "merge-dpo-1"),
        ("control", "merge-sft"),
    ]:
        ref = AdapterRef.model_validate(finished.records[adapter].output)
        assert ref.trained_on == ModelRef.model_validate(finished.records[policy].output).ref_hash


def test_a_merge_names_the_original_base_and_every_delta_since(finished):
    base = ModelRef.model_validate(finished.records["base"].output)
    made = ModelRef.model_validate(finished.records["merge-dpo-2"].output).materialised
    assert made is not None
    assert made.origin == base.base
    assert [delta.stage for delta in made.deltas] == ["sft", "dpo-1", "dpo-2"]


def test_a_merge_in_fp32_computes_what_was_trained(finished):
    for name in ("merge-sft", "merge-dpo-1", "merge-dpo-2", "merge-control"):
        metrics = finished.records[name].metrics
        assert metrics["kept_share"] == pytest.approx(1, abs=1e-5)
        assert metrics["kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["top1"] == 1


def test_every_round_starts_with_the_loss_of_equal_models(finished):
    """ln 2, according to the rounds' history. Later losses differ, so the policy changed."""
    import json
    import math

    for name in ("dpo-1", "dpo-2"):
        folder = finished.store.folder(finished.records[name].key)
        rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        first, *_, last = [row["loss"] for row in rows if "loss" in row]
        assert first == pytest.approx(math.log(2), abs=1e-6)
        assert abs(last - first) > 1e-4


def test_all_models_are_measured_on_the_same_rows(finished):
    reports = [
        EvalReport.model_validate(finished.records[step.name].output)
        for step in finished.chain.evaluations()
    ]
    assert [report.model for report in reports] == ["base", "sft", "round 1", "round 2", "control"]
    for uri in ("generations", "pairs"):
        asked = {
            tuple(
                line.split('"')[3]
                for line in finished.store.path(getattr(report, uri)).read_text().splitlines()
            )
            for report in reports
        }
        assert len(asked) == 1, f"all have the same ids in {uri}"
        assert len(asked.pop()) > 4


def test_a_model_is_nothing_away_from_itself_and_something_from_the_base(finished):
    base = finished.records["evaluate-base"].metrics
    assert base["kl_from_base"] == base["margin"] == 0
    for name in ("sft", "round-1", "round-2"):
        assert finished.records[f"evaluate-{name}"].metrics["kl_from_base"] > 1e-6


def test_a_record_says_what_went_in_and_with_what(finished):
    record = finished.records["dpo-2"]
    assert record.config["config"]["loss"] == {"name": "sigmoid", "beta": 0.1}
    assert record.parents == {
        "policy": finished.records["merge-dpo-1"].key,
        "data": finished.records["pairs-2"].key,
        "watched 1": finished.records["pairs-2"].key,
        "watched 2": finished.records["pairs-evaluation"].key,
    }
    assert record.libraries["trl"].split(".")[0].isdigit()
    assert record.code.revision
    assert "4,096 of" in record.notes[0]


def test_the_parts_of_a_run_do_not_know_where_the_store_lies(finished):
    """Only the base, which is the user's own folder, is named by its place."""
    for record in finished.records.values():
        assert str(finished.store.root) not in record.model_dump_json(), record.name
