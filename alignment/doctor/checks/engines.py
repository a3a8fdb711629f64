"""Whether the configured engines support the run's model."""

from collections.abc import Iterator
from pathlib import Path

from transformers import AutoConfig

from alignment.doctor.finding import Finding
from alignment.pipeline.chain import Chain
from alignment.pipeline.steps import EvaluateModel, Step, TrainDpo, TrainSft
from alignment.scoring.engine import Packed
from alignment.scoring.packable import packing_obstacle


def check_engines(chain: Chain, folder: Path) -> Finding:
    """Whether the packed engine, if any step uses it, can run this model."""
    packed = sorted(_packed(chain))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    reason = packing_obstacle(config) if packed else None
    headline = "Every step uses the stock engine, which supports any model."
    if packed:
        headline = f"The packed engine can run {config.model_type}."
    if reason:
        headline = f"The packed engine cannot run this model: {reason}."
    return Finding(
        check="engine",
        verdict="fail" if reason else "ok",
        headline=headline,
        figures={"packed_steps": len(packed)},
        remedy=f"Set engine.name=stock for {', '.join(packed)} (sft.training, dpo or evaluation).",
    )


def _packed(chain: Chain) -> Iterator[str]:
    """Names of the steps that use the packed engine."""
    for step in chain.steps():
        if isinstance(_engine(step), Packed):
            yield step.name


def _engine(step: Step) -> object:
    return step.config.engine if isinstance(step, TrainSft | TrainDpo | EvaluateModel) else None
