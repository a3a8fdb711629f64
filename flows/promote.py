"""A model becomes the champion of a line: by the gate's word, or by a person's.

Asked for a person, the flow is suspended: its process ends, no GPU is held, and the run page shows
a form with the gate's numbers. What is answered there goes on as the same run.
Not here: the same from a shell, without a server (`sft-dpo promote`).
"""

from typing import Literal, cast

from prefect import State, flow
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed
from pydantic import Field

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError, UsageError
from alignment.records import Frozen, GateResult, Verdict
from alignment.rounds.ledger import Champion
from alignment.rounds.line import RoundLine
from alignment.rounds.references import find_one
from alignment.rounds.steps import champion_of, compare, inbox_of
from flows.form import Change, Config, Hours, Model, form_field
from flows.sft_dpo import Stages, find_config, name_of_run
from tasks.stage import Run

DriverOutcome = Literal["promoted", "declined", "rejected", "nothing to promote"]


class Approval(RunInput):
    """What a person answers."""

    decision: Literal["promote", "decline"] = Field(
        default="decline", title="Decision", description="Make it the champion, or refuse it."
    )
    why: str = Field(default="", title="Why", description="One line for the ledger.")


class PromotionOutcome(Frozen):
    """What became of it, in a sentence, and the champion now: the key of its model."""

    ending: DriverOutcome
    words: str
    head: str


@flow(name="promote", flow_run_name=name_of_run, persist_result=True, result_serializer="json")
def promote(
    config: Config = form_field("Preset or file", "practice"),
    reference: Model = form_field("Model", None),
    ask: bool = form_field("Ask a person", True),  # noqa: FBT001, FBT003 - a switch in the form
    hours: Hours = form_field("Wait for the answer, hours", 72.0),
    overrides: tuple[Change, ...] = form_field("Changes to the config", ()),
) -> PromotionOutcome:
    """Make a model the champion of a line of rounds.

    Args:
        config: A preset (practice, hh, a100), or the path of a YAML file on the worker; its
            `inbox` names the line.
        reference: The model to promote: the round that waits for a person, or a key, its
            beginning, or a step's name such as merge-dpo-4.
        ask: Wait for a person's answer on the run page, without holding a process or a GPU. Off:
            the gate decides.
        hours: How long to wait for the answer, at most 2,160 hours; afterwards the run fails and
            nothing is changed.
        overrides: One a line, as dotted.key=value: inbox.line=main. Never a password: they are
            shown to everybody.
    """
    try:
        settings = load(find_config(config), overrides)
        result = _promote(settings, reference, ask=ask, seconds=hours * 3600)
    except AlignmentError as error:
        return cast(
            "PromotionOutcome", Failed(message=f"{type(error).__name__}: {error}", data=error)
        )
    ended: State[PromotionOutcome] = Completed(
        name=result.ending.capitalize(), message=result.words, data=result
    )
    return cast("PromotionOutcome", ended)


def _promote(
    settings: PipelineConfig, reference: str | None, *, ask: bool, seconds: float
) -> PromotionOutcome:
    run = Run.of(settings)
    line = RoundLine(store=run.store, name=inbox_of(settings).line)
    state = line.state()
    if state.champion is None:
        raise UsageError(f"line {line.name!r} has no champion yet; start it with a first round.")
    candidate = _candidate(line, reference)
    if candidate is None or candidate.model == state.champion.model:
        return PromotionOutcome(
            ending="nothing to promote",
            words="no round waits for a person" if candidate is None else "it is the champion",
            head=state.champion.model,
        )
    verdict = _verdict(settings, run, candidate, state.champion)
    if ask:
        return _by_person(line, candidate, verdict, seconds=seconds)
    if not verdict.kept:
        return PromotionOutcome(ending="rejected", words=verdict.words, head=state.champion.model)
    return _done(line, candidate, verdict.words)


def _candidate(line: RoundLine, reference: str | None) -> Champion | None:
    if reference:
        return champion_of(line.store, find_one(line.store, reference).key)
    waiting = line.state().waiting
    return waiting.head if waiting else None


def _verdict(
    settings: PipelineConfig, run: Run, candidate: Champion, champion: Champion
) -> Verdict:
    step = compare(
        settings, candidate.model, candidate.evaluation, against=champion, name="gate-promotion"
    )
    Stages(run)(step)
    return GateResult.model_validate(run.store.open(step.key).output).verdict


def _by_person(
    line: RoundLine, candidate: Champion, verdict: Verdict, *, seconds: float
) -> PromotionOutcome:
    checks = "\n".join(f"- {check.words}" for check in verdict.checks)
    asked = Approval.with_initial_data(
        description=f"**{candidate.label}** (`{candidate.model}`) against the champion, "
        f"{verdict.champion}:\n\n{checks}\n\nThe gate would "
        f"{'keep' if verdict.kept else 'reject'} it."
    )
    answer = suspend_flow_run(wait_for_input=asked, timeout=round(seconds), key="approval")
    if answer.decision == "promote":
        return _done(line, candidate, answer.why or "a person's word")
    state = line.decline(answer.why or "a person's word")
    assert state.champion is not None
    return PromotionOutcome(ending="declined", words=answer.why, head=state.champion.model)


def _done(line: RoundLine, candidate: Champion, why: str) -> PromotionOutcome:
    line.promote(candidate, why)
    return PromotionOutcome(
        ending="promoted", words=f"{candidate.label}: {why}", head=candidate.model
    )
