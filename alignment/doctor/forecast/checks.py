"""Memory and time on a device, as findings. Not here: the arithmetic (`memory.py`, `timing.py`)."""

from collections.abc import Mapping, Sequence

from alignment.doctor.finding import Finding, graded
from alignment.doctor.forecast.devices import Device
from alignment.doctor.forecast.memory import Memory, forecast_memory, in_gib, weight_bytes
from alignment.doctor.forecast.plans import minimal
from alignment.doctor.forecast.timing import forecast_seconds
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.records.refs import Quantisation
from alignment.report.table import Table

TIGHT = 0.85
"""From this share of the memory on it may not fit: the forecast is known to about 15 %."""


def check_memory(
    trainings: Sequence[Training],
    shape: Shape | None,
    quantisation: Quantisation | None,
    device: Device,
    *,
    bf16: bool = True,
) -> Finding:
    """Whether every training fits into the device's memory, and the weights in full.

    `bf16`: whether evaluation loads them in bfloat16.
    """
    if shape is None:
        return _no_shape("memory")
    peaks = {t.name: forecast_memory(t, shape, quantisation, device) for t in trainings}
    needs = [
        forecast_memory(minimal(t, shape, device), shape, quantisation, device).total
        for t in trainings
    ]
    full = weight_bytes(shape, None, bf16=bf16) + device.resident
    verdict = graded(max([*needs, full]) / device.memory, warn=TIGHT, fail=1.0)
    too_large = graded(full / device.memory, warn=TIGHT, fail=1.0) != "ok"
    rows = [
        (t.name, *map(in_gib, peaks[t.name]), in_gib(peaks[t.name].total), _micro_batch(t))
        for t in trainings
    ]
    columns = (
        "Training",
        "Weights",
        "Adapter",
        "Activations",
        "Outside tensors",
        "Peak",
        "Micro-batch",
    )
    return Finding(
        check="memory",
        verdict=verdict,
        headline=_headline(peaks, max(needs, default=0.0), device)
        + (f" Evaluation loads all weights: {in_gib(full)} GiB." if too_large else ""),
        figures={f"{name}_gib": round(peak.total / 2**30, 3) for name, peak in peaks.items()}
        | {"device_gib": round(device.memory / 2**30, 1), "evaluation_gib": round(full / 2**30, 1)},
        tables=(
            Table.of(
                f"Forecast of the peak on {device.name}, GiB",
                columns,
                rows,
                note=f"{device.checked} A forecast, not a measurement.",
            ),
        ),
        remedy="For evaluation, own answers and stacks take a device with more memory: several do "
        "not share weights."
        if too_large
        else "Turn on gradient_checkpointing, or lower max_length. With the stock engine: lower "
        "batch.per_device and raise batch.accumulation by the same factor (same rows per step).",
    )


def _headline(peaks: Mapping[str, Memory], need: float, device: Device) -> str:
    """The highest peak, and the memory needed if that is less: `auto` fills what is free."""
    if not peaks:
        return "No training to forecast: this run has none, or only on own answers, yet unwritten."
    where = max(peaks, key=lambda name: peaks[name].total)
    most = peaks[where].total
    text = f"At most {in_gib(most)} of {in_gib(device.memory)} GiB on {device.name}, in {where}."
    if need < most:
        text += f" The packed engine fills what is free; {in_gib(need)} GiB would fit."
    return text


def _micro_batch(training: Training) -> str:
    """The size of a micro-batch and how its layers run, as text."""
    if training.is_stock:
        return f"{training.config.batch.per_device} rows"
    compiled = ", compiled" if training.compiled else ""
    tokens = training.plan.tokens
    return f"{tokens:,} tokens, {training.recomputed(tokens):.0%} recomputed{compiled}"


def check_time(trainings: Sequence[Training], shape: Shape | None, device: Device) -> Finding:
    """How long the training steps will take."""
    if shape is None:
        return _no_shape("time")
    seconds = {t.name: forecast_seconds(t, shape, device) for t in trainings}
    rows = [
        (t.name, f"{t.steps:,}", f"{t.micro_batches:,}", duration(seconds[t.name]))
        for t in trainings
    ]
    return Finding(
        check="time",
        verdict="ok",
        headline=f"About {duration(sum(seconds.values()))} of training steps on {device.name}.",
        figures={f"{name}_seconds": round(value, 1) for name, value in seconds.items()},
        tables=(
            Table.of(
                f"Forecast of the time on {device.name}",
                ("Training", "Steps", "Micro-batches", "Time"),
                rows,
                note=f"{device.checked} Without loading, evaluation, samples and merges.",
            ),
        ),
    )


def duration(seconds: float) -> str:
    """Seconds as readable text."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _no_shape(check: str) -> Finding:
    return Finding(
        check=check,
        verdict="warn",
        headline=f"No forecast of {check}: config.json does not describe a Llama or Qwen2 decoder.",
        remedy="Try a few steps on the device (set max_steps) before the whole run.",
    )
