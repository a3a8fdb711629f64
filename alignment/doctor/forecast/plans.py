"""How the packed engine will run a training: tokens per micro-batch, recomputing layers, compiled.

This uses the engine's own plan (`alignment/scoring/budget.py`), with forecast memory in place of
measured memory.
"""

from dataclasses import replace

from alignment.doctor.forecast.devices import Device
from alignment.doctor.forecast.memory import activation_bytes, forecast_memory
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.records import Quantisation
from alignment.scoring.budget import CPU_TOKENS, USABLE_SHARE, PassMemory, Plan, fit_plan
from alignment.scoring.engine import STEPS_WORTH_COMPILING, Packed


def planned(
    training: Training, shape: Shape, quantisation: Quantisation | None, device: Device
) -> Training:
    """The training as it will run on the device; unchanged with the stock engine."""
    engine = training.config.engine
    if not isinstance(engine, Packed):
        return training
    training = replace(
        training, leveled=device.is_gpu, compiled=device.is_gpu and _compiles(training, engine)
    )
    plan = _cpu_plan(engine)
    if device.is_gpu:
        free = _free(training, shape, quantisation, device)
        memory = _bytes_per_token(training, shape)
        plan = fit_plan(memory, free, engine.tokens_per_micro_batch, engine.recompute)
    training = replace(training, budget=plan.tokens, recompute=plan.recompute)
    return replace(training, recompute_alone=plan.share(training.largest))


def minimal(training: Training, device: Device) -> Training:
    """The training at its lowest memory: every `auto` setting takes its smallest value."""
    engine = training.config.engine
    if not isinstance(engine, Packed) or not device.is_gpu:
        return training
    if engine.tokens_per_micro_batch == "auto":
        training = replace(training, budget=1)  # one row per micro-batch
    if engine.recompute == "auto":
        training = replace(training, recompute=1.0, recompute_alone=1.0)
    return training


def _compiles(training: Training, engine: Packed) -> bool:
    if engine.compile == "auto":
        return training.steps >= STEPS_WORTH_COMPILING
    return engine.compile


def _cpu_plan(engine: Packed) -> Plan:
    tokens, recompute = engine.tokens_per_micro_batch, engine.recompute
    return Plan(
        CPU_TOKENS if tokens == "auto" else tokens, 1.0 if recompute == "auto" else recompute
    )


def _bytes_per_token(training: Training, shape: Shape) -> PassMemory:
    recomputed = activation_bytes(replace(training, recompute=1.0), shape, 1)
    kept = activation_bytes(replace(training, recompute=0.0), shape, 1)
    return PassMemory(0.0, recomputed, kept)


def _free(
    training: Training, shape: Shape, quantisation: Quantisation | None, device: Device
) -> float:
    """Bytes that the engine plans with: a share of what weights, adapter and optimiser leave."""
    held = forecast_memory(training, shape, quantisation, device)
    return USABLE_SHARE * (device.memory - (held.total - held.activations))
