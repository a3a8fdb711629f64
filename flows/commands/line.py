"""`sft-dpo promote`, `rollback`, `revoke` and `line adopt`: change a line of rounds."""

from collections.abc import Callable
from pathlib import Path

from alignment.config.file import load
from alignment.errors import ArtifactError, UsageError
from alignment.execution.run_step import run_step
from alignment.rounds.identity import differences, found_in
from alignment.rounds.ledger import Champion, Identity
from alignment.rounds.line import RoundLine, all_lines
from alignment.rounds.measure import on_line
from alignment.rounds.notes import brief
from alignment.rounds.references import find_model, line_in
from alignment.rounds.repair import check_undamaged
from alignment.rounds.sealed import on_sealed_rows
from alignment.rounds.state import State
from alignment.rounds.steps import inbox_of
from alignment.store.activity import announced
from alignment.store.lineage import containing
from alignment.store.store import REBUILD, Store
from flows.line_printing import print_anchor
from flows.printing import print_list, say
from flows.stores import configured_store, existing_store

NO_REASON = "from the command line"


def promote(reference: str, store: Path, line: str | None, why: str) -> None:
    """Make a model the champion of a line."""
    opened = existing_store(store)
    rounds = line_in(opened, line)
    model = _labelled(rounds, reference) or find_model(opened, reference).key
    with announced(opened, f"sft-dpo promote {reference}"):
        champion = on_line(rounds, model, build=lambda step: run_step(opened, step))
    before = rounds.state()
    found = (_judged(rounds, champion), *on_sealed_rows(opened, before, champion))
    rounds.promote(champion, why or NO_REASON)
    for sentence in found:
        say(sentence)
    _print_champion(rounds, before)


def _judged(rounds: RoundLine, champion: Champion) -> str:
    """What the line's gate made of a model, for the person who promotes it nevertheless."""
    closed = rounds.state().verdict_on(champion.model)
    if closed is None:
        return (
            f"line {rounds.name} has not judged {champion.label}: no round of it trained this model"
        )
    return f"as judged in round {closed.number}: {brief(closed.why)}"


def roll_back(
    reference: str | None, store: Path, line: str | None, why: str, *, damaged: bool
) -> None:
    """Make an earlier champion the champion again; a damaged one only where that is asked for."""
    opened = existing_store(store)
    rounds = line_in(opened, line)
    champion = rounds.earlier_champion(_model(rounds, reference))
    if not damaged:
        with announced(opened, "sft-dpo rollback"):
            _refuse_damaged(opened, champion)
    before = rounds.state()
    rounds.roll_back(champion, why or NO_REASON)
    _print_champion(rounds, before)
    say("The batches of later rounds stay used: no round trains on them again.")


def _refuse_damaged(store: Store, champion: Champion) -> None:
    """Refuse a champion whose files are damaged.

    Raises:
        ArtifactError: says which file, and what to do.
    """
    try:
        check_undamaged(store, champion)
    except ArtifactError as error:
        raise ArtifactError(
            f"{champion.label}: {str(error).removesuffix(REBUILD)}. Name another champion, or add "
            "--damaged: the next sft-dpo round builds it again before it trains; until then it can "
            "be neither exported nor measured."
        ) from error


def revoke(
    batch: str, store: Path, line: str | None, why: str, *, rebuild: Callable[[], None] | None
) -> None:
    """Ban a batch; `rebuild`, if given, retrains one lost round at a time until none is left."""
    opened = existing_store(store)
    rounds = line_in(opened, line) if line else _line_that_used(opened, batch)
    bad = rounds.state().find_batch(batch)
    with announced(opened, f"sft-dpo revoke {batch}"):
        found = containing(opened, bad.key)
    say(f"batch {bad.digest[:12]} ({bad.shown_file}) is in {len(found)} models of {store}:")
    print_list(found)
    rounds.revoke(bad, why or NO_REASON)
    for one in all_lines(opened):
        if one.revoke_as_elsewhere().has_revoked(bad):
            _print_champion(one)
            say(f"{len(one.state().requeued)} rounds to retrain without it")
    while rebuild is not None and rounds.state().requeued:
        rebuild()


def adopt(config: Path, overrides: list[str], why: str) -> None:
    """Continue a line with a config that describes another one."""
    settings = load(config, overrides)
    rounds = RoundLine(store=configured_store(settings), name=inbox_of(settings).line)
    state = rounds.state()
    if state.champion is None:
        raise UsageError(f"line {rounds.name!r} has not started, so there is nothing to adopt")
    identity = found_in(settings, rounds).identity
    for difference in differences(state.identity, identity) if state.identity else ():
        say(difference)
    rounds.adopt(identity, why or NO_REASON)
    say(f"line {rounds.name} goes on with {config}, from its champion and on its rows")
    if state.identity and _start_of(state.identity) != _start_of(identity):
        say(
            "Its rounds train the champion, on the base model that it was built on: the model, "
            "quantisation and SFT of this config start no round."
        )
    _print_champion(rounds)


def _start_of(identity: Identity) -> tuple[object, ...]:
    return identity.model, identity.quantisation, identity.sft


def _model(rounds: RoundLine, reference: str | None) -> str | None:
    """The model that a reference means: a champion so far by its label, or any artifact."""
    if reference is None or rounds.state().earlier_champions(reference):
        return reference
    return find_model(rounds.store, reference).key


def _labelled(rounds: RoundLine, label: str) -> str | None:
    """The line's own model of this label; other lines of the store may have one as well."""
    heads = [closed.head for _, closed in rounds.state().history]
    return next((head.model for head in reversed(heads) if head.label == label), None)


def _line_that_used(store: Store, batch: str) -> RoundLine:
    """The line that used a batch; the only line, if none did."""
    for line in all_lines(store):
        if any(known.is_called(batch) for known in line.state().known_batches.values()):
            return line
    return line_in(store)


def _print_champion(rounds: RoundLine, before: State | None = None) -> None:
    """Print the champion, and what else ended where it changed."""
    state = rounds.state()
    champion = state.champion
    assert champion is not None, "a line that can be changed has a champion"
    say(f"champion of {rounds.name}: {champion.label} {champion.model}")
    print_anchor(state)
    waited = before.waiting if before is not None else None
    if waited is not None and waited.head != champion and state.waiting is None:
        say(f"round {waited.number} no longer waits for approval: it did not start from there")
