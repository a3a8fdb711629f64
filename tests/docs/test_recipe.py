"""docs/recipe.md: every setting that brings the recipe's letter back does what the page says."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from alignment.config.file import load
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.plan import plan
from alignment.store.store import Store

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "deployments" / "configs" / "a100.yaml"
PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.partition("## Where it differs")[2].splitlines()
    if line.startswith("|")
][2:]
LETTERS = {row[0]: re.findall(r"--set ([^\s`]+)", row[3]) for row in ROWS}


def test_every_difference_has_a_letter_or_says_that_there_is_none():
    assert len(ROWS) == len(LETTERS) == 16
    assert all(len(row) == 4 for row in ROWS)
    assert all(row[3].startswith("none") != bool(LETTERS[row[0]]) for row in ROWS)


@pytest.mark.parametrize("line", [line for line, letters in LETTERS.items() if letters])
def test_a_letter_parses_and_changes_what_it_names_and_nothing_else(line):
    before, after = (flat(load(RECIPE, changes)) for changes in ((), LETTERS[line]))
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    for letter in LETTERS[line]:
        name, _, value = letter.partition("=")
        assert after[name] == YAML(typ="safe").load(value)
        assert name in changed or any(key.startswith(f"{name}.") for key in changed)
    names = [letter.partition("=")[0] for letter in LETTERS[line]]
    allowed = tuple(name.removesuffix(".name") for name in names)
    assert {key for key in changed if not key.startswith(allowed)} == set()


def flat(config):
    """Every value by its dotted key."""

    def items(value, prefix):
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from items(inner, f"{prefix}.{key}" if prefix else key)
        else:
            yield prefix, value

    return dict(items(config.model_dump(mode="json"), ""))


def test_the_letter_of_the_batches_is_trls_own(tmp_path):
    letters = LETTERS["batches of 2 rows, 8 times"]
    steps = {s.name: s for s in plan(chain(load(RECIPE, letters)), Store(root=tmp_path))}
    for step, library in (("sft", "trl.SFTConfig"), ("dpo-1", "trl.DPOConfig")):
        arguments = steps[step].resolved[library]
        assert arguments["per_device_train_batch_size"] == 2
        assert arguments["gradient_accumulation_steps"] == 8
        assert steps[step].notes == ("checkpointing: every layer recomputes, never reentrant",)


def test_the_letter_of_checkpointing_recomputes_every_layer(tmp_path):
    letters = LETTERS["gradient checkpointing in every layer, never reentrant"]
    for overrides, words in (((), "as memory asks"), (letters, "100% of the layers recompute")):
        steps = plan(chain(load(RECIPE, overrides)), Store(root=tmp_path))
        notes = [step.notes[0] for step in steps if step.stage in ("sft", "dpo")]
        assert len(notes) == 4
        assert all(note.startswith(f"checkpointing: {words}") for note in notes)
