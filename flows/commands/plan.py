"""`sft-dpo plan`: show what a run would do."""

import json
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from alignment.config.file import load
from alignment.errors import ModelError
from alignment.execution.run_step import try_in_child
from alignment.extras import how_to_install
from alignment.models.folder import check_weights
from alignment.models.sources import FolderModel
from alignment.pipeline.chain import Chain
from alignment.pipeline.effort import Efforts
from alignment.pipeline.plan import Planned, plan
from alignment.pipeline.verdicts import chain_so_far
from alignment.records.refs import BaseRef, ModelRef
from alignment.store.store import Store
from flows.located import naming_the_line
from flows.printing import duration, in_units, say
from flows.stores import configured_store


def print_plan(config: Path, overrides: list[str], *, as_json: bool) -> None:
    """Print every step with its status and key; what to know about it goes to stderr."""
    settings = load(config, overrides)
    store = configured_store(settings)
    with naming_the_line(config, overrides):
        steps = chain_so_far(settings, store)
    records = cache(store.records)  # a store may have thousands
    planned = list(plan(steps, store, records))
    if as_json:
        print(json.dumps([step.model_dump(mode="json") for step in planned], indent=2))
    else:
        _print_lines(planned)
        for obstacle in settings.inbox.foreseen if settings.inbox else ():
            say(f"rounds from the inbox: {obstacle}", error=True)
        _print_effort(planned, steps, Efforts(store, records), store)
    _try_model(steps, store)


def _print_lines(planned: Sequence[Planned]) -> None:
    for step in planned:
        say(f"{step.status:<7} {step.name:<22} {step.key}")
        for note in step.notes:
            say(f"        {step.name}: {note}", error=True)  # which may be all that is shown
    if assumed := dict.fromkeys(gate for step in planned for gate in step.assumes):
        names = ", ".join(assumed)
        say(
            f"not judged yet: {names}. The keys after them assume that they keep their rounds.",
            error=True,
        )


def _print_effort(planned: Sequence[Planned], chain: Chain, efforts: Efforts, store: Store) -> None:
    """Print what the steps take that would run, judged by those of their kind in the store."""
    left = {one.key for one in planned if one.status != "SKIP"}
    if not left:
        say("nothing to run", error=True)
        return
    effort = efforts.of(step for step in chain.steps() if step.key in left)
    gpu = "" if effort.gpu_gib is None else f", {effort.gpu_gib:.1f} GiB of GPU memory"
    if len(effort.unknown) < len({one.stage for one in planned if one.key in left}):
        say(
            f"{len(left)} steps to run: about {duration(effort.seconds)}, {in_units(effort.size)} "
            f"of disk{gpu}, as the last of each kind took in {store.root}",
            error=True,
        )
    if effort.unknown:
        say(
            f"not known: what {', '.join(effort.unknown)} take, which have not run in "
            f"{store.root}; `sft-dpo doctor` forecasts time and memory",
            error=True,
        )


def _announce() -> None:
    sys.stdout.flush()  # the plan itself is complete
    say("trying the model without its weights; this takes some seconds, once", error=True)


def _try_model(chain: Chain, store: Store) -> None:
    """Refuse a plan whose model cannot do what it asks for; say so if that cannot be known.

    Raises:
        ModelError: names the steps and why they would fail.
    """
    if isinstance(chain.base.source, FolderModel):
        check_weights(chain.base.source.path)
    if find_spec("transformers") is None:
        say(f"the model was not tried; to try it: {how_to_install('train')}", error=True)
        return
    try:
        base = _base(chain, store)
    except ModelError as error:
        say(f"the model was not tried: {error}", error=True)
        return
    if base is None:
        say("the model was not tried: it is not on this machine.", error=True)
        return
    for note in try_in_child(store, base, tuple(chain.steps()), on_start=_announce):
        say(note, error=True)


def _base(chain: Chain, store: Store) -> BaseRef | None:
    """The run's base model; None if nothing of it is on this machine.

    Raises:
        ModelError: it is on a hub that cannot be reached.
    """
    record = store.find(chain.base.key)
    if record is None:
        return chain.base.source.foreseen()
    base = ModelRef.model_validate(record.output).base
    return base if base.uri.startswith("hub:") or store.path(base.uri).is_dir() else None
