"""`sft-dpo du` and `sft-dpo gc`: what a store takes, and what of it nothing needs any more."""

import json
import shutil
import time
from pathlib import Path

from alignment.report.table import Table
from alignment.rounds.tidy import Removable, Tidying, delete, tidying, usage
from alignment.store.store import Store
from flows.printing import in_units, say
from flows.stores import existing_store

DAY = 86400.0
SHOWN = 40
"""Pieces that are listed; --json has all."""


def show_usage(folder: Path, *, as_json: bool) -> None:
    """Print what each kind of content takes."""
    store = existing_store(folder)
    shares = usage(store)
    if as_json:
        print(json.dumps([share.model_dump(mode="json") for share in shares], indent=2))
        return
    rows = [(s.name, f"{s.count:,}", in_units(s.size), _age(s.oldest)) for s in shares]
    here = in_units(sum(share.size for share in shares if not share.in_bucket))
    title = f"{here} in {folder}"
    if store.origin is not None:
        there = in_units(sum(share.size for share in shares if share.in_bucket))
        title += f", {there} in {store.origin.bucket.url}"
    say(Table.of(title, ("What", "Number", "Size", "Oldest"), rows).to_text())
    say(f"{in_units(shutil.disk_usage(folder).free)} free on the disk; sft-dpo gc lists the rest")


def tidy(folder: Path, *, days: float, megabytes: float, act: bool, as_json: bool) -> None:
    """Print what would be removed and what is lost with it; remove it if `act`."""
    store = existing_store(folder)
    found = tidying(store, before=time.time() - days * DAY, larger=round(megabytes * 2**20))
    freed = delete(store, found) if act else None
    if as_json:
        print(json.dumps({**found.model_dump(mode="json"), "freed": freed}, indent=2))
        return
    _print_pieces(found, store, act=act)
    kept = ", ".join(f"{count} of {reason}" for reason, count in found.kept.items()) or "none"
    say(f"artifacts kept: {kept}")
    if not act and found.pieces:
        say("nothing was removed; to remove it, add --delete")
    if any(piece.in_bucket for piece in found.pieces):
        say("commands of other machines are not known here: delete while none works on the bucket")


def _print_pieces(found: Tidying, store: Store, *, act: bool) -> None:
    verb = "freed" if act else "would free"
    if not found.pieces:
        say(f"nothing to remove in {store.root}")
        return
    there = ""
    if store.origin is not None:
        there = f", {in_units(found.size_in_bucket)} in {store.origin.bucket.url}"
    say(f"{verb} {in_units(found.size)} in {store.root}{there}:")
    largest = sorted(found.pieces, key=lambda piece: -piece.size)
    for piece in largest[:SHOWN]:
        say(_line(piece))
    if len(largest) > SHOWN:
        say(f"  and {len(largest) - SHOWN} smaller ones")


def _line(piece: Removable) -> str:
    size, age = in_units(piece.size), _age(piece.modified)
    place = f"in the bucket: {piece.path}" if piece.in_bucket else piece.path
    what = f"{piece.kind:<10} {piece.name} ({place})"
    return f"  {size:>9}  {age:>5}  {what}; lost: {piece.lost}"


def _age(modified: float) -> str:
    return f"{max(time.time() - modified, 0) / DAY:.0f} d"
