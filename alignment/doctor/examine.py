"""Runs all checks on one configuration, in the order in which to read them."""

import time
from collections.abc import Iterator
from datetime import datetime

from alignment.config.pipeline import PipelineConfig
from alignment.doctor.checks.counts import check_rows, check_unwritten
from alignment.doctor.checks.flags import check_flags
from alignment.doctor.checks.gate import check_gate
from alignment.doctor.checks.lengths import check_lengths, check_trimmed
from alignment.doctor.checks.machine import check_machine
from alignment.doctor.checks.model import check_model
from alignment.doctor.checks.overlap import check_contamination, check_duplicates
from alignment.doctor.checks.preference import (
    about_pairs,
    check_conflicts,
    check_length_bias,
    check_ties,
)
from alignment.doctor.checks.rounds import check_rounds, without_rounds
from alignment.doctor.checks.start import check_start
from alignment.doctor.checks.template import (
    check_prefix,
    check_stop,
    check_supervised,
    check_template,
)
from alignment.doctor.checks.texts import check_forged_turns, check_refusals
from alignment.doctor.finding import Finding, PreflightReport
from alignment.doctor.forecast.checks import check_memory, check_time
from alignment.doctor.forecast.devices import Device, find_device
from alignment.doctor.forecast.plans import planned
from alignment.doctor.forecast.schedule import check_schedule
from alignment.doctor.forecast.trainings import list_trainings
from alignment.doctor.inputs import (
    PreflightInputs,
    model_folder,
    prepare_sets,
)
from alignment.doctor.sets import OnStep
from alignment.doctor.shape import Shape
from alignment.execution.device import device_facts
from alignment.models.chat_template import end_of_turn_id
from alignment.models.description import check_architecture
from alignment.models.tokenizer import date_of, tokenizer_with
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.store.store import Store


def examine(
    config: PipelineConfig,
    *,
    device: str | None = None,
    command: str = "",
    on_progress: OnStep = lambda _: None,
) -> PreflightReport:
    """Prepare a run's data as the run would, and check everything that needs no GPU.

    Args:
        config: the run.
        device: name of the device to forecast memory and time for; None: `usual_device`.
        command: the command line, shown on the page so that readers can repeat it.
        on_progress: called with the name of each step before it is prepared.

    Raises:
        DataError, ModelError: the run itself would fail before its first training.
        UsageError: `device` is not known.
    """
    target = find_device(device or usual_device(config)).within(config.gpu_memory_gib)
    plan, store = chain(config), config.open_store()
    folder = model_folder(plan, store, on_progress)
    check_architecture(folder)
    tokenizer = tokenizer_with(config.template, folder)
    template = check_template(tokenizer, date=date_of(config.template, folder))
    findings = [template]
    began = time.monotonic()
    if template.verdict != "fail":  # no row can be encoded without a usable template
        sets = prepare_sets(plan, store, tokenizer, on_progress)
        inputs = PreflightInputs(config, plan, folder, tokenizer, Shape.read(folder), sets)
        began = time.monotonic()
        findings = [about_pairs(each, sets) for each in _findings(inputs, template, target)]
        _note_time(findings, plan, store, target)
    return PreflightReport(
        title=f"{config.name}: before the run",
        created=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        command=command,
        device=target.name,
        findings=tuple(findings),
        seconds=round(time.monotonic() - began, 2),
    )


def _note_time(findings: list[Finding], plan: Chain, store: Store, device: Device) -> None:
    """Leave the forecast of each training for `sft-dpo status`, by the key of its step."""
    keys = {f"{step.name}_seconds": step.key for step in plan.steps()}
    for name, seconds in findings[[f.check for f in findings].index("time")].figures.items():
        store.note_forecast(keys[name], seconds, device.name)


def usual_device(config: PipelineConfig) -> str:
    """The GPU that the 4-bit settings target; this machine's CPU for full weights."""
    return "a100-40gb" if config.quantisation else "cpu"


def _findings(inputs: PreflightInputs, template: Finding, device: Device) -> Iterator[Finding]:
    sets, shape = inputs.sets, inputs.shape
    compose = inputs.config.compose
    trainings = list_trainings(inputs.chain, sets, compose=compose)
    yield check_rows(sets)
    yield from check_unwritten(inputs.chain, inputs.config.inbox)
    yield template
    yield check_stop(sets, stop=end_of_turn_id(inputs.tokenizer))
    yield check_prefix(sets)
    yield check_supervised(sets, inputs.tokenizer)
    yield check_forged_turns(sets)
    yield check_lengths(sets)
    yield check_trimmed(sets)
    yield check_flags(sets)
    yield check_duplicates(sets)
    yield check_contamination(sets)
    yield check_conflicts(sets)
    yield check_ties(sets)
    yield check_length_bias(sets)
    yield check_refusals(sets)
    yield check_start(inputs.chain)
    if inputs.config.rounds or inputs.config.inbox:
        yield check_rounds(sets)
        yield check_gate(inputs.config, sets)
    else:
        yield without_rounds(inputs.config)
    yield check_schedule(trainings, shape)
    yield check_model(inputs.chain, inputs.folder)
    quantisation = inputs.config.quantisation
    if shape is not None:
        trainings = tuple(planned(each, shape, quantisation, device) for each in trainings)
    bf16 = inputs.config.evaluation.dtype == "bfloat16"
    yield check_memory(trainings, shape, quantisation, device, bf16=bf16)
    yield check_time(trainings, shape, device)
    yield check_machine(inputs.config, device_facts())
