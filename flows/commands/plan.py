"""`sft-dpo plan`: show what a run would do."""

import json
from collections.abc import Sequence
from pathlib import Path

from alignment.config.file import load
from alignment.execution.run_step import try_in_child
from alignment.models.sources import FolderModel
from alignment.pipeline.chain import Chain
from alignment.pipeline.plan import Planned, plan
from alignment.pipeline.verdicts import chain_so_far
from alignment.records import BaseRef, ModelRef
from alignment.store.store import Store
from flows.located import naming_the_line
from flows.printing import say


def print_plan(config: Path, overrides: list[str], *, as_json: bool) -> None:
    """Print every step with its status and key; what to know about it goes to stderr."""
    settings = load(config, overrides)
    store = Store(root=settings.store)
    with naming_the_line(config, overrides):
        steps = chain_so_far(settings, store)
    planned = list(plan(steps, store))
    if as_json:
        print(json.dumps([step.model_dump(mode="json") for step in planned], indent=2))
    else:
        _print_lines(planned)
    _try_model(steps, store)


def _print_lines(planned: Sequence[Planned]) -> None:
    for step in planned:
        say(f"{step.status:<7} {step.name:<22} {step.key}")
        for note in step.notes:
            say(f"        {note}", error=True)
    if assumed := dict.fromkeys(gate for step in planned for gate in step.assumes):
        names = ", ".join(assumed)
        say(
            f"not judged yet: {names}. The keys after them assume that they keep their rounds.",
            error=True,
        )


def _try_model(chain: Chain, store: Store) -> None:
    """Refuse a plan whose model cannot do what it asks for, if the model is on this machine.

    Raises:
        ModelError: names the steps and why they would fail.
    """
    source, record = chain.base.source, store.find(chain.base.key)
    if record is not None:
        base = ModelRef.model_validate(record.output).base
    elif isinstance(source, FolderModel):
        base = BaseRef(uri=f"folder:{source.path.absolute()}", sha256="", dtype="")
    else:
        return  # the model is not on this machine
    if not store.path(base.uri).is_dir():
        return  # nor is it any more
    for note in try_in_child(store, base, tuple(chain.steps())):
        say(note, error=True)
