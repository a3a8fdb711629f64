"""`sft-dpo plan`: show what a run would do."""

import json
from pathlib import Path

from alignment.config.file import load
from alignment.pipeline.plan import plan
from alignment.pipeline.verdicts import chain_so_far
from alignment.store.store import Store
from flows.printing import say


def print_plan(config: Path, overrides: list[str], *, as_json: bool) -> None:
    """Print every step with its status and key; what to know about it goes to stderr."""
    settings = load(config, overrides)
    store = Store(root=settings.store)
    planned = list(plan(chain_so_far(settings, store), store))
    if as_json:
        print(json.dumps([step.model_dump(mode="json") for step in planned], indent=2))
        return
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
