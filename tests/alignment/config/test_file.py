from pathlib import Path

import pytest

from alignment.compose.settings import Stack
from alignment.config.file import load, place_of_path
from alignment.config.pipeline import TrainedSft
from alignment.data.build.settings import PairSetConfig
from alignment.errors import ConfigError
from alignment.train.losses import Ipo

ROOT = Path(__file__).parents[3]


def test_an_unknown_key_is_refused_with_file_line_path_and_the_nearest_name(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: package}\nsft: {name: none}\ndpo:\n  learning_rat: 1e-4\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    expected = f"{path}:4: unknown key dpo.learning_rat; did you mean 'learning_rate'?"
    assert str(caught.value) == expected


def test_a_key_of_another_choice_is_refused_inside_a_union(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: package, revision: main}\nsft: {name: none}\n")
    with pytest.raises(ConfigError, match=r"run.yaml:1: unknown key model.revision; valid names"):
        load(path)


def test_all_mistakes_are_reported_at_once(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: package}\nsft: {name: none}\nseeed: 1\ndpo: {weight_decay: -1}")
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert any("did you mean 'seed'?" in line for line in lines)
    assert any(":4: dpo.weight_decay: input should be greater than" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected `key: value` lines, found nothing"),
        ("- a\n", "expected `key: value` lines"),
        ("a: [1\n", "not valid YAML"),
        ("sft: {name: none}\n", "model is missing"),
        (
            "model: {name: huub}\nsft: {name: none}\n",
            r":1: model.name: there is no 'huub'; did you mean 'hub'",
        ),
        ("model: {}\nsft: {name: none}\n", "model needs a `name`"),
    ],
)
def test_a_file_that_is_not_a_config_is_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_missing_file_suggests_files_beside_it(tmp_path):
    with pytest.raises(ConfigError, match=r"no config file .*`sft-dpo init` writes"):
        load(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"no config file .*Did you mean practice\.yaml"):
        load(ROOT / "deployments" / "configs" / "practise.yaml")


def test_overrides_reach_list_items_defaults_and_whole_branches(tiny_settings, write_config):
    config = load(
        write_config(tiny_settings),
        [
            "seed=7",
            "rounds.1.data.limit=5",
            "dpo.loss.beta=0.3",
            "sft={name: none}",
        ],
    )
    assert config.seed == 7
    first, second = (round_.data for round_ in config.rounds[:2])
    assert isinstance(first, PairSetConfig)
    assert isinstance(second, PairSetConfig)
    assert second.limit == 5
    assert first.limit is None
    assert config.dpo.loss.beta == 0.3
    assert config.sft.name == "none"


def test_an_override_changes_one_place_and_no_other_that_shares_its_anchor():
    """In practice.yaml, `dpo` takes its settings from SFT through a merge key."""
    practice = ROOT / "deployments" / "configs" / "practice.yaml"
    usual = load(practice)
    changed = load(practice, ["dpo.lora.r=8", "dpo.engine.recompute=0.5", "sft.training.epochs=3"])
    assert changed.dpo.lora.r == 8
    assert changed.dpo.epochs == usual.dpo.epochs
    assert isinstance(usual.sft, TrainedSft)
    assert isinstance(changed.sft, TrainedSft)
    assert changed.sft.training == usual.sft.training.model_copy(update={"epochs": 3.0})


def test_an_override_of_a_kind_keeps_the_keys_that_both_kinds_have():
    """practice.yaml sets a dtype for merges, which a stack does not have, and beta for sigmoid."""
    practice = ROOT / "deployments" / "configs" / "practice.yaml"
    changed = load(practice, ["compose.name=stack", "dpo.loss.beta=0.3", "dpo.loss.name=ipo"])
    assert changed.compose == Stack()
    assert changed.dpo.loss == Ipo(beta=0.3)
    assert changed.rounds == load(practice).rounds
    with pytest.raises(ConfigError, match=r"^.*: model\.path is missing$"):
        load(practice, ["model.name=folder"])
    with pytest.raises(ConfigError, match=r"unknown key compose\.dtype; valid names: max_gap"):
        load(practice, ["compose.name=stack", "compose.dtype=float32"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dpo.engine.name=pakced", "dpo.engine.name: there is no 'pakced'; did you mean 'packed'?"),
        (
            "rounds.1.data.sources.0.rows=-1",
            "rounds.1.data.sources.0.rows: input should be greater than 0, got -1",
        ),
    ],
)
def test_a_mistake_in_an_override_is_reported_once_and_blamed_on_the_override(override, message):
    practice = ROOT / "deployments" / "configs" / "practice.yaml"
    with pytest.raises(ConfigError) as caught:
        load(practice, [override])
    assert str(caught.value) == f"--set {override!r}: {message}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected dotted.key=value"),
        ("rounds.9.data.limit=5", r"'9' is not one of the 2 items \(0 .. 1\)"),
        ("seed.deeper=1", "'seed' is a plain value"),
        ("name.deeper=1", "cannot be set below a plain value"),
        ("name=[1", "not valid YAML"),
    ],
)
def test_an_override_without_a_place_in_the_config_is_refused(
    tiny_settings, write_config, override, message
):
    with pytest.raises(ConfigError, match=message):
        load(write_config(tiny_settings), [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dpo.beta=0.2", "unknown key dpo.beta; did you mean 'dpo.loss.beta'?"),
        ("quantisation=[4]", "quantisation: expected `key: value` lines, got [4]"),
        ("rounds=3", "rounds: expected a list, got 3"),
        ("seed=abc", "seed: expected a whole number, got 'abc'"),
        ("dpo.bf16=often", "dpo.bf16: expected true or false, got 'often'"),
    ],
)
def test_a_mistake_is_explained_without_the_words_of_a_library(tmp_path, override, message):
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: package}\nsft: {name: none}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, [override])
    assert str(caught.value) == f"--set {override!r}: {message}"


def test_the_line_that_names_a_missing_file_is_found(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: folder, path: mine}\nrounds:\n- data:\n    sources:\n")
    with path.open("a") as stream:
        stream.write("    - {name: file, path: mine/rows.jsonl}\n")
    message = "mine/rows.jsonl: no data found"
    assert place_of_path(path, [], message) == f"{path}:5: rounds.0.data.sources.0.path"
    assert place_of_path(path, [], "mine is not there") == f"{path}:1: model.path"
    override = "model.path=yours"
    expected = f"--set {override!r}: model.path"
    assert place_of_path(path, [override], "yours is not there") == expected
    assert place_of_path(path, [], "the disk is full") is None
