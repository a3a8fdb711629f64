"""Makes a model the champion of a line, if the gate or a person approves.

To ask a person, the flow is suspended: its process ends, no GPU is held, and the run page shows a
form with the gate's numbers. After the answer, the same run continues.
Not here: promotion from a shell, without a server (`sft-dpo promote`).
"""

from typing import Literal, cast

from prefect import State, flow
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed
from pydantic import Field

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError
from alignment.evaluate.verdict import Finding, GateResult, Verdict
from alignment.records.base import Frozen
from alignment.rounds.identity import check_cheaply
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.measure import on_line
from alignment.rounds.references import find_model
from alignment.rounds.sealed import on_sealed_rows
from alignment.rounds.state import State as LineState
from alignment.rounds.steps import inbox_of, line_gate
from flows.form import Change, Config, Hours, Model, Preset, chosen, form_field
from flows.sft_dpo import Stages, name_of_run
from flows.stores import configured_store
from tasks.stage import Run

PromotionStatus = Literal[
    "promoted", "declined", "rejected", "inconclusive", "cannot be judged", "nothing to promote"
]
_NOT_KEPT: dict[Finding, PromotionStatus] = {
    "failed": "rejected",
    "inconclusive": "inconclusive",
    "cannot be judged": "cannot be judged",
}


class Approval(RunInput):
    """The form that a person fills in."""

    decision: Literal["promote", "decline"] = Field(
        default="decline",
        title="Decision",
        description="Make the model the champion, or refuse it.",
    )
    why: str = Field(default="", title="Reason", description="Recorded in the ledger.")


class PromotionOutcome(Frozen):
    """The result of a promotion.

    Attributes:
        outcome: the outcome in a word or two.
        message: the outcome as a sentence.
        champion: key of the current champion's model.
    """

    outcome: PromotionStatus
    message: str
    champion: str


@flow(name="promote", flow_run_name=name_of_run, persist_result=True, result_serializer="json")
def promote(
    preset: Preset = form_field("Preset", "practice"),
    config: Config = form_field("Or a file", ""),
    reference: Model = form_field("Model", None),
    ask: bool = form_field("Ask a person", True),  # noqa: FBT001, FBT003 - a switch in the form
    hours: Hours = form_field("Hours to wait for the answer", 72.0),
    overrides: tuple[Change, ...] = form_field("Changes to the config", ()),
) -> PromotionOutcome:
    """Make a model the champion of a line of rounds.

    Args:
        preset: A configuration that comes with the project. Its `inbox` names the line.
        config: Path of a YAML file on the worker, instead of the preset.
        reference: The model to promote: the round waiting for approval, or a key, the beginning of
            a key, or the name of a step such as merge-dpo-4.
        ask: On: wait for an answer on the run page, without holding a process or a GPU. Off: the
            gate decides.
        hours: How long to wait for the answer, at most 2,160 hours. After that the run fails and
            the champion stays.
        overrides: Config values to change, one per item as dotted.key=value, e.g. inbox.line=main.
            Do not enter passwords: everyone who can open the run sees these values.
    """
    try:
        settings = load(chosen(preset, config), overrides)
        result = _promote(settings, reference, ask=ask, seconds=hours * 3600)
    except AlignmentError as error:
        return cast(
            "PromotionOutcome", Failed(message=f"{type(error).__name__}: {error}", data=error)
        )
    state: State[PromotionOutcome] = Completed(
        name=result.outcome.capitalize(), message=result.message, data=result
    )
    return cast("PromotionOutcome", state)


def _promote(
    settings: PipelineConfig, reference: str | None, *, ask: bool, seconds: float
) -> PromotionOutcome:
    run = Run.of(settings)
    line = RoundLine(store=configured_store(settings), name=inbox_of(settings).line)
    state = line.state()
    if state.champion is None:
        raise line.no_champion()
    candidate = _candidate(settings, run, line, reference)
    if candidate is None or candidate.model == state.champion.model:
        return PromotionOutcome(
            outcome="nothing to promote",
            message="no round waits for approval"
            if candidate is None
            else f"{candidate.label} is already the champion",
            champion=state.champion.model,
        )
    check_cheaply(settings, line, state)
    verdict = _verdict(settings, run, line, candidate, state)
    if ask:
        return _by_person(line, candidate, verdict, seconds=seconds)
    if not verdict.kept:
        return PromotionOutcome(
            outcome=_NOT_KEPT[verdict.finding],
            message=verdict.sentence,
            champion=state.champion.model,
        )
    line.promote_by_gate(candidate, verdict.sentence, seen=state)
    return _promoted(candidate, verdict.sentence)


def _candidate(
    settings: PipelineConfig, run: Run, line: RoundLine, reference: str | None
) -> Champion | None:
    if reference:
        model = find_model(line.store, reference).key
        return on_line(line, model, build=Stages(run), settings=settings.evaluation)
    waiting = line.state().waiting
    return waiting.head if waiting else None


def _verdict(
    settings: PipelineConfig, run: Run, line: RoundLine, candidate: Champion, state: LineState
) -> Verdict:
    """The gate's verdict; all models are measured on the line's rows first."""
    assert state.champion is not None
    assert state.anchor is not None

    def measured(champion: Champion) -> Champion:
        return on_line(line, champion.model, build=Stages(run), settings=settings.evaluation)

    step = line_gate(
        settings,
        "gate-promotion",
        candidate,
        champion=measured(state.champion),
        anchor=measured(state.anchor),
        look=state.looks + 1,
    )
    Stages(run)(step)
    return GateResult.model_validate(run.store.open(step.key).output).verdict


def _by_person(
    line: RoundLine, candidate: Champion, verdict: Verdict, *, seconds: float
) -> PromotionOutcome:
    sealed = on_sealed_rows(line.store, line.state(), candidate)
    checks = "\n".join(f"- {words}" for words in (*(c.words for c in verdict.checks), *sealed))
    form = Approval.with_initial_data(
        description=f"**{candidate.label}** (`{candidate.model}`) compared with the champion, "
        f"{verdict.champion}:\n\n{checks}\n\nThe gate would "
        f"{'keep' if verdict.kept else 'reject'} it."
    )
    # the run begins again after the answer, and an answer is only about the model that was shown
    key = f"approval-{candidate.model}"
    answer = suspend_flow_run(wait_for_input=form, timeout=round(seconds), key=key)
    if answer.decision == "promote":
        reason = answer.why or "approved by a person"
        line.promote(candidate, reason)
        return _promoted(candidate, reason)
    why = answer.why or "declined by a person"
    state = line.decline(candidate.model, why)
    assert state.champion is not None
    return PromotionOutcome(
        outcome="declined",
        message=f"{candidate.label}: {why}",
        champion=state.champion.model,
    )


def _promoted(candidate: Champion, why: str) -> PromotionOutcome:
    return PromotionOutcome(
        outcome="promoted", message=f"{candidate.label}: {why}", champion=candidate.model
    )
