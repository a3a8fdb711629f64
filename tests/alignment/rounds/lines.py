"""Lines whose artifacts are empty: batches, models and champions by number or name."""

import hashlib
import json

from alignment.rounds.ledger import Champion, Delivery
from alignment.rounds.line import RoundLine
from tests.alignment.artifacts import record_of


def content(number):
    return json.dumps({"number": number}).encode() + b"\n"


def batch(number):
    digest = hashlib.sha256(content(number)).hexdigest()
    return Delivery(digest=digest, key=f"batch-{digest[:12]}", file=f"{number}.jsonl")


def champion(name):
    return Champion(model=f"merge-{name}", evaluation=f"evaluate-{name}", label=f"round {name}")


def put(store, key, *parents):
    """An empty artifact with these parents, by their keys."""
    if store.find(key) is None:
        roles = {f"parent {number}": parent for number, parent in enumerate(parents)}
        store.commit(record_of(key, parents=roles), store.workspace(key))


def put_model(store, name, parent, *batches):
    """The model of a round: its manifest says what it was trained on."""
    for one in batches:
        put(store, one.key)
    put(store, champion(name).model, champion(parent).model, *(one.key for one in batches))


def started(store, name):
    made = RoundLine(store=store, name=name)
    put(store, champion("start").model)
    made.start(champion("start"), rounds=3)
    return made
