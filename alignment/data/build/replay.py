"""Replay: adds pairs of earlier rounds to a round, against forgetting. Pairs are chosen by hash."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.data.build.report import Prepared
from alignment.data.split import unit_hash
from alignment.records.text import PreferencePair
from alignment.store.durable import failpoint_span


def add_replay(
    prepared: Prepared,
    trained: Mapping[str, Sequence[PreferencePair]],
    *,
    share: float,
    salt: str,
    out: Path,
) -> Prepared:
    """Append pairs of earlier sets to the training rows of a prepared set.

    Args:
        prepared: the set as written under `out`.
        trained: pairs that earlier rounds were trained on, by the name of their set.
        share: target share of replayed pairs among the training rows, 0 <= share < 1. Lower if
            there are not enough old pairs; no pairs are replayed if there are no new rows.
        salt: determines which pairs are chosen.
        out: the set's folder.
    """
    old = list({pair.id: pair for pairs in trained.values() for pair in pairs}.values())
    count = round(prepared.ref.kept * share / (1 - share))
    picked = sorted(old, key=lambda pair: unit_hash(pair.id, salt=f"replay:{salt}"))[:count]
    if not picked:
        return prepared
    train = out / prepared.ref.train
    with failpoint_span("replay.append"), train.open("a", encoding="utf-8", newline="\n") as lines:
        lines.writelines(pair.model_dump_json() + "\n" for pair in picked)
    note = f"{len(picked)} pairs of earlier rounds are replayed"
    return Prepared(
        prepared.ref.model_copy(update={"kept": prepared.ref.kept + len(picked)}),
        prepared.report.model_copy(update={"notes": (*prepared.report.notes, note)}),
    )
