"""How the packed engine will run a training: tokens per micro-batch, recomputing layers, compiled.

This uses the engine's own plan (`alignment/train/memory_plan.py`), with forecast memory in place of
measured memory.
"""

from dataclasses import dataclass, replace

from alignment.doctor.forecast.devices import Device
from alignment.doctor.forecast.memory import activation_bytes, forecast_memory
from alignment.doctor.forecast.trainings import Training
from alignment.doctor.shape import Shape
from alignment.records.refs import Quantisation
from alignment.scoring.engine import Packed
from alignment.train.memory_plan import Plan, fit_plan
from alignment.train.pass_memory import USABLE_SHARE, PassMemory, PassPeak


def planned(
    training: Training, shape: Shape, quantisation: Quantisation | None, device: Device
) -> Training:
    """The training as it will run on the device; unchanged with the stock engine."""
    held = forecast_memory(training, shape, quantisation, device)
    return _planned(training, shape, device, device.memory - (held.total - held.activations))


def minimal(training: Training, shape: Shape, device: Device) -> Training:
    """The training at its lowest memory: every `auto` setting takes its smallest value."""
    return _planned(training, shape, device, 0.0)


def _planned(training: Training, shape: Shape, device: Device, free: float) -> Training:
    engine = training.config.engine
    if not isinstance(engine, Packed):
        return training
    compiled = device.is_gpu and engine.wants_compiling(training.steps, cuda=True)
    training = replace(training, on_gpu=device.is_gpu, compiled=compiled)
    recomputed, kept = (
        activation_bytes(replace(training, plan=Plan(1, share)), shape, 1) for share in (1.0, 0.0)
    )
    plan = fit_plan(
        engine.tokens_per_micro_batch,
        engine.recompute,
        training.work,
        Forecast(PassMemory(0.0, recomputed, kept), free) if device.is_gpu else None,
    )
    return replace(training, plan=plan)


@dataclass(frozen=True)
class Forecast:
    """The memory of passes as forecast, in place of trial passes.

    Attributes:
        memory: of a pass.
        free: bytes that are free beside what is held during the whole training.
    """

    memory: PassMemory
    free: float

    def measure(self) -> tuple[PassMemory, float]:
        """The memory of a pass, and the bytes that a plan may use."""
        return self.memory, USABLE_SHARE * self.free

    def peak(self, tokens: int, share: float) -> PassPeak:
        """What a pass would allocate in which this share of the layers recomputes."""
        return PassPeak(tokens, self.memory.bytes(tokens, share))
