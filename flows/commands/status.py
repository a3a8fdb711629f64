"""`sft-dpo status`: what runs in a store, seen from another terminal."""

import json
from datetime import datetime
from pathlib import Path

from alignment.errors import UsageError
from alignment.store.activity import Activity, activities
from alignment.store.progress import Mark
from alignment.store.store import Store
from flows.printing import say


def show_status(store: Path, *, as_json: bool) -> None:
    """Print a line for each step that is being built or was interrupted, and where its log is.

    Raises:
        UsageError: there is no such store.
    """
    if not store.is_dir():
        raise UsageError(f"no store {store}. Check --store.")
    found = list(activities(Store(root=store)))
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in found], indent=2))
        return
    if not found:
        say(f"nothing is being built in {store}")
    for one in sorted(found, key=lambda activity: not activity.running):
        say(_line(one))
        say(f"  log: {one.log}")


def _line(one: Activity) -> str:
    name = one.holder.purpose if one.holder else one.key
    how_far = f": {_so_far(one.mark)}" if one.mark else ""
    if not one.running:
        after = "continues from its checkpoint" if one.resumable else "starts this step again"
        return f"interrupted: {name}{how_far}; the same command {after}"
    where = f", {one.holder.place}, for {_for(one.holder.since)}" if one.holder else ""
    return f"running: {name}{how_far}{where}"


def _so_far(mark: Mark) -> str:
    total = f"/{mark.total}" if mark.total else ""
    numbers = "".join(f", {name} {value:.3g}" for name, value in mark.numbers.items())
    return f"{mark.phase} {mark.done}{total}{numbers}"


def _for(since: str) -> str:
    seconds = (datetime.now().astimezone() - datetime.fromisoformat(since)).total_seconds()
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
