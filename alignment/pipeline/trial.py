"""Tries a run's model without its weights: adapters, merge and engines, in seconds.

What a family cannot do would otherwise show when its step starts, perhaps after hours of training.
The model is built on torch's meta device, so a model of any size takes the same second.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from peft import get_peft_model

from alignment.errors import ModelError
from alignment.models.folder import one_line, weight_files
from alignment.models.hub import base_folder
from alignment.models.rope import rope_obstacle
from alignment.models.targets import adapter_config, covered_share
from alignment.models.weight_files import Weights, blank_model, names_in_model
from alignment.pipeline.steps import EvaluateModel, Step, TrainDpo, TrainSft
from alignment.records import BaseRef
from alignment.scoring.engine import Packed
from alignment.scoring.packable import packing_obstacle
from alignment.store.store import Store


class Adapted(NamedTuple):
    """What one training would train.

    Attributes:
        step: the training's name.
        modules: names of the linear layers with an adapter.
        covered: share of the weights in linear layers and experts that are in these layers.
    """

    step: str
    modules: tuple[str, ...]
    covered: float


class Trial(NamedTuple):
    """The result: why steps cannot run, by the steps' names, and what the others would train."""

    obstacles: dict[str, str]
    adapted: tuple[Adapted, ...]


def try_model(steps: Iterable[Step], folder: Path) -> Trial:
    """Try every training and evaluation among these steps on the model in a folder.

    The folder needs a config; stored weights are only asked for their names.

    Raises:
        ModelError: the model cannot be opened at all.
    """
    config = blank_model(folder).config
    unpackable = cache(lambda: packing_obstacle(config))
    obstacles: dict[str, str] = {}
    adapted: list[Adapted] = []
    for step in steps:
        if not isinstance(step, TrainSft | TrainDpo | EvaluateModel):
            continue
        try:
            _try_lengths(step, config)
            if isinstance(step.config.engine, Packed) and (reason := unpackable()):
                raise ModelError(
                    f"the packed engine cannot run this model: {reason}; set engine.name=stock in "
                    "sft.training, dpo and evaluation"
                )
            if not isinstance(step, EvaluateModel):
                adapted.append(_try_adapter(step, folder))
        except ModelError as error:
            obstacles[step.name] = str(error)
    return Trial(obstacles, tuple(adapted))


def try_run(store: Store, base: BaseRef, steps: Iterable[Step]) -> None:
    """Try a base model on these steps.

    Raises:
        ModelError: a step cannot run it, or it cannot be opened.
    """
    refuse_obstacles(try_model(steps, base_folder(base, store)))


def refuse_obstacles(trial: Trial) -> None:
    """Refuse a run whose model cannot do all that it asks for.

    Raises:
        ModelError: the first obstacle, and the steps that have it.
    """
    for reason in trial.obstacles.values():
        steps = [step for step, own in trial.obstacles.items() if own == reason]
        raise ModelError(f"{', '.join(steps)}: {reason}")


def _try_lengths(step: TrainSft | TrainDpo | EvaluateModel, config: Any) -> None:
    reason = rope_obstacle(config, step.config.max_length)
    if reason:
        raise ModelError(reason)


def _try_adapter(step: TrainSft | TrainDpo, folder: Path) -> Adapted:
    model: Any = blank_model(folder)
    config = adapter_config(step.config.lora.peft_arguments(), model)
    covered = covered_share(config, model)
    stored = _stored_names(folder, model)
    try:
        targeted = get_peft_model(model, config).targeted_module_names
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"PEFT cannot adapt {model.config.model_type}: {one_line(error)} Choose other layers "
            "in lora.target_modules."
        ) from error
    lost = [name for name in targeted if stored and f"{name}.weight" not in stored]
    if lost:
        raise ModelError(
            f"no weight is stored for {lost[0]} in {folder}, so its adapter could not be merged. "
            "Remove it from lora.target_modules."
        )
    return Adapted(step.name, tuple(sorted(targeted)), covered)


def _stored_names(folder: Path, model: Any) -> set[str]:
    """The names in the model of all stored tensors; none where only the config was fetched."""
    if not weight_files(folder):
        return set()
    return set(names_in_model(model, Weights(folder).names).values())
