"""The gates of a line, read from the store: the rounds since the anchor, and their trail."""

from collections.abc import Iterable, Sequence
from functools import cache

from pydantic import TypeAdapter

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.settings import GateConfig
from alignment.evaluate.verdict import GateResult
from alignment.pipeline.steps import AnchorGate, ParentGate, made_by
from alignment.records.evaluation import EvalReport, Generation, PairScore, TaskScore
from alignment.records.manifest import StageRecord
from alignment.report.trail import JudgedRound, Trail, trail_of
from alignment.store.jsonl import read_rows
from alignment.store.store import Store


def trail_in(store: Store, gates: Sequence[StageRecord]) -> Trail | None:
    """The trail of the rounds that these gates judged, in order; None without a gate."""
    if not gates:
        return None
    first = gates[0].parents["against"]

    @cache
    def rows(key: str) -> ScoredRows:
        return rows_of(store, EvalReport.model_validate(store.open(key).output))

    rounds = [
        JudgedRound(
            verdict=GateResult.model_validate(gate.output).verdict,
            candidate=rows(gate.parents["evaluation"]),
            anchor=rows(gate.parents.get("anchor", first)),
        )
        for gate in gates
    ]
    anchor = store.open(gates[-1].parents.get("anchor", first))
    rule: GateConfig = TypeAdapter(GateConfig).validate_python(gates[-1].config["config"])
    return trail_of(EvalReport.model_validate(anchor.output).model, rule, rounds)


def rows_of(store: Store, report: EvalReport) -> ScoredRows:
    """The rows that an evaluation was computed from."""
    return ScoredRows(
        pairs=tuple(read_rows(store.path(report.pairs), PairScore)),
        generations=tuple(read_rows(store.path(report.generations), Generation)),
        tasks=tuple(read_rows(store.path(report.tasks), TaskScore)) if report.tasks else (),
    )


def gates_since_anchor(store: Store, last: StageRecord) -> list[StageRecord]:
    """The gates of a line from its anchor up to this one; one per round.

    A line is followed back through the models that were kept. Other lines may have begun with the
    same model, so of several gates of one number the one on the way counts, else the newest.
    """
    gates = [record for record in store.records() if made_by(record, ParentGate, AnchorGate)]
    rule = _rule_and_anchor(store, last)
    same = [gate for gate in gates if _rule_and_anchor(store, gate) == rule]
    way = _way_back(same, last)
    starts = {gate.parents["champion"] for gate in way}
    beside = [gate for gate in same if gate.parents["champion"] in starts]
    by_name = {gate.name: gate for gate in (*beside, *way)}
    return sorted(
        (gate for gate in by_name.values() if _number(gate) <= _number(last)), key=_number
    )


def _way_back(gates: Iterable[StageRecord], last: StageRecord) -> list[StageRecord]:
    """The gates whose candidates led to the model that the last one started from, and the last."""
    by_candidate = {gate.parents["candidate"]: gate for gate in gates}
    way = [last]
    while (before := by_candidate.get(way[-1].parents["champion"])) and before not in way:
        way.append(before)
    return way


def _rule_and_anchor(store: Store, gate: StageRecord) -> tuple[str, str | None] | None:
    """The kind of gate and its anchor's model; None if an evaluation is no longer in the store."""
    evaluations = {
        role: store.find(gate.parents[role])
        for role in ("evaluation", "against", "anchor")
        if role in gate.parents
    }
    if None in evaluations.values():
        return None
    anchor = evaluations.get("anchor")
    return gate.stage, anchor.parents["model"] if anchor else None


def _number(gate: StageRecord) -> int:
    return int(gate.name.rpartition("-")[2])
