"""`sft-dpo publish`: put a model with its card on a hub; a dry run unless asked for."""

import os
import re
import tempfile
from pathlib import Path
from typing import Literal

from alignment.errors import UsageError
from alignment.records.manifest import StageRecord
from alignment.report import hub
from alignment.rounds.line import check_sound
from alignment.rounds.references import find_one
from alignment.store.activity import announced
from alignment.store.store import Store
from flows.commands.model import quiet_exports
from flows.printing import in_units, say
from flows.stores import existing_store

TOKEN = "HF_TOKEN"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
KEPT_HERE = ("lineage.json",)
"""Not uploaded: it names folders of this machine; the card has its keys and figures."""


def publish(
    reference: str,
    folder: Path,
    to: str,
    *,
    form: Literal["merged", "adapter"],
    upload: bool,
    public: bool,
) -> None:
    """Export the model beside the store, show card and files, and upload them if asked to.

    Raises:
        UsageError: there is no token, the name is none of a repository, or the hub refuses.
    """
    if not REPOSITORY.fullmatch(to):
        raise UsageError(f"--to {to!r}: expected ORGANISATION/NAME, e.g. my-org/my-model")
    if upload and not os.environ.get(TOKEN):
        raise UsageError(
            f"the environment variable {TOKEN} is not set. Make a token that may write on your "
            "hub's page of settings, and export it; it is never an argument or a setting"
        )
    store = existing_store(folder)
    record = find_one(store, reference)
    check_sound(store, record.name, record.key)
    if upload:
        hub.check_upload(to, public=public)
    with announced(store, f"sft-dpo publish {reference}"), _scratch(store) as scratch:
        made = _exported(store, record, Path(scratch) / "model", to, form)
        _show(made, to, public=public)
        if not upload:
            say(f"nothing was uploaded. To do it: set {TOKEN}, and add --upload")
            return
        name = f"{record.name} {record.key}"
        say(hub.upload(made, to, public=public, leave=KEPT_HERE, message=name))


def _scratch(store: Store) -> "tempfile.TemporaryDirectory[str]":
    """Beside the artifacts, where there is room for one more; `gc` finds what a kill leaves."""
    return tempfile.TemporaryDirectory(dir=store.root, prefix=".publish-")


def _exported(
    store: Store, record: StageRecord, folder: Path, to: str, form: Literal["merged", "adapter"]
) -> Path:
    written = quiet_exports().write_with_card(store, record, folder, name=to, form=form)
    if written.form == "adapter" and Path(written.base or "").is_absolute():
        raise UsageError(
            f"{record.name} is an adapter on {written.base}, which others do not have. Publish the "
            "model after it instead, with --form merged: sft-dpo runs"
        )
    return folder


def _show(folder: Path, to: str, *, public: bool) -> None:
    say((folder / "README.md").read_text(encoding="utf-8"))
    say(f"--- files for {to}, {'public' if public else 'private'}:")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in KEPT_HERE:
            say(f"  {in_units(path.stat().st_size):>9}  {path.relative_to(folder)}")
