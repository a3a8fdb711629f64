"""What every kind of step declares about itself."""

import inspect
from typing import Any, get_args

import pytest

from alignment.pipeline.step import Step
from alignment.pipeline.steps import STEPS
from alignment.records.base import Frozen

EVERY_KIND = pytest.mark.parametrize("kind", STEPS.values(), ids=STEPS)


def marks(annotation: Any) -> set[object]:
    """All metadata inside an annotation, e.g. that of `Key` in `tuple[Key, ...]`."""
    found = set(getattr(annotation, "__metadata__", ()))
    return found.union(*(marks(part) for part in get_args(annotation)))


@EVERY_KIND
def test_every_field_that_holds_keys_is_listed_as_a_parent(kind):
    held = [
        name
        for name, field in kind.model_fields.items()
        if "key" in field.metadata or "key" in marks(field.annotation)
    ]
    assert sorted(kind.parent_fields) == sorted(held)


@EVERY_KIND
def test_every_step_declares_its_title_and_what_it_produces(kind):
    assert kind.title
    assert issubclass(kind.produces, Frozen)
    assert kind.nominal_seconds > 0
    assert kind.in_child or not kind.needs_gpu, "GPU memory is freed when a child process ends"


def test_every_class_of_steps_is_in_the_union():
    def below(kind: Any) -> set[Any]:
        return {kind, *(c for sub in kind.__subclasses__() for c in below(sub))}

    concrete = {kind for kind in below(Step) if "stage" in kind.__annotations__ and kind != Step}
    assert concrete == {kind for kind in STEPS.values() if not inspect.isabstract(kind)}


def test_titles_are_unique():
    assert len({kind.title for kind in STEPS.values()}) == len(STEPS)


def test_settings_hold_no_parent(finished):
    for step in finished.chain.steps():
        assert not set(step.settings) & set(step.parent_fields)
        assert finished.store.find(step.key).config == step.settings


def test_records_hold_what_their_step_says_it_produces(finished):
    for step in finished.chain.steps():
        record = finished.store.find(step.key)
        assert record.output_as(step.produces), step.name
        assert set(step.roles.values()) == set(record.parents.values())
