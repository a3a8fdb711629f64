"""How the packed engine will take a training: tokens at once, layers that recompute, compiled.

By the engine's own plan (`alignment/scoring/budget.py`), with memory forecast where it measures.
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
    """The training as it will run on the device; with the stock engine, as it is."""
    engine = training.config.engine
    if not isinstance(engine, Packed):
        return training
    training = replace(
        training, leveled=device.is_gpu, compiled=device.is_gpu and _compiles(training, engine)
    )
    plan = _fixed(engine)
    if device.is_gpu:
        free = _free(training, shape, quantisation, device)
        memory = _of_a_token(training, shape)
        plan = fit_plan(memory, free, engine.tokens_per_micro_batch, engine.recompute)
    training = replace(training, budget=plan.tokens, recompute=plan.recompute)
    return replace(training, recompute_alone=plan.share(training.largest))


def least(training: Training, device: Device) -> Training:
    """The same where memory is short: what is `auto` is then as small as it can be."""
    engine = training.config.engine
    if not isinstance(engine, Packed) or not device.is_gpu:
        return training
    if engine.tokens_per_micro_batch == "auto":
        training = replace(training, budget=1)  # every row alone
    if engine.recompute == "auto":
        training = replace(training, recompute=1.0, recompute_alone=1.0)
    return training


def _compiles(training: Training, engine: Packed) -> bool:
    if engine.compile == "auto":
        return training.steps >= STEPS_WORTH_COMPILING
    return engine.compile


def _fixed(engine: Packed) -> Plan:
    """On a CPU."""
    tokens, recompute = engine.tokens_per_micro_batch, engine.recompute
    return Plan(
        CPU_TOKENS if tokens == "auto" else tokens, 1.0 if recompute == "auto" else recompute
    )


def _of_a_token(training: Training, shape: Shape) -> PassMemory:
    recomputed = activation_bytes(replace(training, recompute=1.0), shape, 1)
    kept = activation_bytes(replace(training, recompute=0.0), shape, 1)
    return PassMemory(0.0, recomputed, kept)


def _free(
    training: Training, shape: Shape, quantisation: Quantisation | None, device: Device
) -> float:
    """Bytes the engine plans for: a share of what weights, adapter and optimiser leave."""
    held = forecast_memory(training, shape, quantisation, device)
    return USABLE_SHARE * (device.memory - (held.total - held.activations))
