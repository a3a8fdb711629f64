"""The keys of every step, as they were when they were last looked at.

A key that moves makes every store build its step again. Meant: raise the step's `version`, say so
in the changelog, and record the keys with `make golden`. Not meant: a renamed field, another
default, another literal.
"""

import json
from pathlib import Path

import pytest

from alignment.config.file import load
from alignment.pipeline.chain_builder import chain

RECORDED = Path(__file__).with_name("keys.json")
GOLDEN = json.loads(RECORDED.read_text())
CONFIGS = Path(__file__).parents[2] / "deployments" / "configs"


def keys(config, overrides=()):
    return {step.name: step.key for step in chain(load(config, list(overrides))).steps()}


def compare(request, place, found):
    """Hold keys against the recorded ones, or record them."""
    if request.config.getoption("--golden"):
        place["keys"] = found
        RECORDED.write_text(json.dumps(GOLDEN, indent=1) + "\n")
    moved = {name for name in place["keys"] | found if place["keys"].get(name) != found.get(name)}
    assert not moved


@pytest.mark.parametrize("preset", GOLDEN["presets"])
def test_keys_of_a_preset_stay(request, preset, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    compare(request, GOLDEN["presets"][preset], keys(CONFIGS / f"{preset}.yaml"))


@pytest.mark.parametrize("variant", GOLDEN["variants"])
def test_keys_of_a_variant_stay(request, variant, old_store, monkeypatch):
    """Kinds of losses, engines, sources and handovers, set as a person would."""
    monkeypatch.chdir(old_store)
    recorded = GOLDEN["variants"][variant]
    compare(request, recorded, keys(Path("tiny.yaml"), recorded["overrides"]))
