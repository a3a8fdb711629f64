"""`sft-dpo status`: what runs in a store, seen from another terminal."""

import json
from datetime import datetime
from pathlib import Path

from alignment.pipeline.remaining import Remaining, remaining
from alignment.store.activity import Activity, activities, commands
from alignment.store.locks import Holder
from alignment.store.progress import Mark
from flows.printing import duration, say
from flows.stores import existing_store


def show_status(store: Path, *, as_json: bool) -> None:
    """Print a line for each step that is being built or was interrupted, and where its log is.

    Raises:
        UsageError: there is no such store.
    """
    opened = existing_store(store)
    found, at_work = list(activities(opened)), commands(opened)
    if as_json:
        shown = [*found, *(_as_activity(holder) for holder in at_work)]
        print(json.dumps([one.model_dump(mode="json") for one in shown], indent=2))
        return
    if not found and not at_work:
        say(f"nothing is being built in {store}")
    between = not any(one.running for one in found)
    for holder in at_work:
        say(f"running: {_where(holder)}{', starting or between two steps' if between else ''}")
    if left := remaining(opened, found):
        say(f"  {_of_all(left)}")
    for one in sorted(found, key=lambda activity: not activity.running):
        say(_line(one, waits=bool(at_work)))
        say(f"  log: {one.log}")


def _of_all(left: Remaining) -> str:
    """How long everything takes that is still to come, and what is not in that."""
    steps = "1 step" if left.steps == 1 else f"{left.steps} steps"
    known = "unknown" if left.seconds is None else f"about {duration(left.seconds)}"
    text = f"time left: {known} for {steps}, with the present one"
    for device in dict.fromkeys(left.forecast.values()):
        names = ", ".join(name for name, of in left.forecast.items() if of == device)
        text += f"; {names}: as the doctor forecast for {device}"
    if left.unknown and left.seconds is not None:
        text += f"; unknown, not counted: {', '.join(left.unknown)}"
    return text


def _as_activity(holder: Holder) -> Activity:
    """A command beside the steps, without a key."""
    return Activity(key="", holder=holder, running=True, resumable=False, mark=None, log="")


def _line(one: Activity, *, waits: bool) -> str:
    name = one.holder.purpose if one.holder else one.key
    how_far = f": {_so_far(one.mark)}" if one.mark else ""
    if not one.running:
        after = "continues from its checkpoint" if one.resumable else "starts this step again"
        state = "not running yet" if waits else "interrupted"
        return f"{state}: {name}{how_far}; the same command {after}"
    return f"running: {name}{how_far}{_since(one.holder) if one.holder else ''}{_left(one)}"


def _left(one: Activity) -> str:
    """How long the phase still takes, and how fast it is."""
    if one.left is None or one.mark is None:
        return ""
    tokens = f", {one.tokens_per_second:,.0f} tokens/s" if one.tokens_per_second else ""
    return f"; about {duration(one.left)} of {one.mark.phase} left{tokens}"


def _where(holder: Holder) -> str:
    return holder.purpose + _since(holder)


def _since(holder: Holder) -> str:
    return f", {holder.place}, for {_for(holder.since)}"


def _so_far(mark: Mark) -> str:
    total = f"/{mark.total}" if mark.total else ""
    numbers = "".join(f", {name} {value:.3g}" for name, value in mark.shown.items())
    return f"{mark.phase} {mark.done}{total}{numbers}"


def _for(since: str) -> str:
    seconds = (datetime.now().astimezone() - datetime.fromisoformat(since)).total_seconds()
    return duration(seconds)
