"""Tries a run's model without its weights: adapters, merge and engines, in seconds.

What a family cannot do would otherwise show when its step starts, perhaps after hours of training.
The model is built on torch's meta device, so a model of any size takes the same second.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from peft import get_peft_model

from alignment.errors import ModelError, one_line
from alignment.models.experts import parts_of
from alignment.models.folder import weight_files
from alignment.models.hub import base_folder
from alignment.models.rope import rope_obstacle
from alignment.models.targets import WHOLE, Coverage, adapter_config, coverage, default_gap
from alignment.models.weight_files import Weights, blank_model, names_in_model
from alignment.pipeline.steps import EvaluateModel, OpenBase, Step, TrainDpo, TrainSft
from alignment.records.refs import BaseRef
from alignment.scoring.engine import Packed
from alignment.scoring.head import head_obstacle
from alignment.scoring.packable import packing_obstacle
from alignment.store.store import Store
from alignment.train.settings import SEVEN


class Adapted(NamedTuple):
    """What one training would train.

    Attributes:
        step: the training's name.
        modules: names of the linear layers and tensors of experts with an adapter.
        covered: how much of the model's blocks these are.
    """

    step: str
    modules: tuple[str, ...]
    covered: Coverage


class Trial(NamedTuple):
    """The result: why steps cannot run, by the steps' names, and what the others would train."""

    obstacles: dict[str, str]
    adapted: tuple[Adapted, ...]

    @property
    def notes(self) -> list[str]:
        """What of the model's blocks the trainings leave as it is, by their choice of layers."""
        gaps = {each.step: each.covered.note for each in self.adapted}
        return [f"{step}: {gap}" for step, gap in gaps.items() if gap]


def try_model(steps: Iterable[Step], folder: Path) -> Trial:
    """Try every training and evaluation among these steps on the model in a folder.

    The folder needs a config; stored weights are only asked for their names.

    Raises:
        ModelError: the model cannot be opened at all.
    """
    blank = blank_model(folder)
    config = blank.config
    if reason := head_obstacle(blank):
        raise ModelError(
            f"log-probs of {config.model_type} cannot be computed: {reason}. Use another model."
        )
    steps = tuple(steps)
    quantised = any(isinstance(step, OpenBase) and step.quantisation for step in steps)
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
                adapted.append(_try_adapter(step, folder, quantised=quantised))
        except ModelError as error:
            obstacles[step.name] = str(error)
    return Trial(obstacles, tuple(adapted))


def try_run(store: Store, base: BaseRef, steps: Iterable[Step]) -> list[str]:
    """Try a base model on these steps; return what to know about their adapters.

    Raises:
        ModelError: a step cannot run it, or it cannot be opened.
    """
    trial = try_model(steps, base_folder(base, store))
    refuse_obstacles(trial)
    return trial.notes


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


def _try_adapter(step: TrainSft | TrainDpo, folder: Path, *, quantised: bool) -> Adapted:
    model: Any = blank_model(folder)
    config = adapter_config(step.config.lora.peft_arguments(), model)
    by_weight = [name for name in config.target_parameters or () if name.endswith(".weight")]
    if quantised and by_weight:
        raise ModelError(
            f"in 4 bits PEFT cannot adapt {', '.join(by_weight)} of {model.config.model_type}: "
            "set quantisation to null, or name other layers in lora.target_modules"
        )
    covered = coverage(config, model)
    if step.config.lora.target_modules == SEVEN and covered.share < WHOLE:
        raise ModelError(default_gap(covered, model))
    stored = _stored_names(folder, model)
    parts_of(model, stored)
    try:
        adapted = get_peft_model(model, config)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"PEFT cannot adapt {model.config.model_type}: {one_line(error)} Choose other layers "
            "in lora.target_modules."
        ) from error
    targeted = {*adapted.targeted_module_names, *adapted.targeted_parameter_names}
    known = {name.removesuffix(".weight") for name in stored.values()}
    lost = [
        name for name in sorted(targeted) if stored and name.removesuffix(".weight") not in known
    ]
    if lost:
        raise ModelError(
            f"no weight is stored for {lost[0]} in {folder}, so its adapter could not be merged. "
            "Remove it from lora.target_modules."
        )
    return Adapted(step.name, tuple(sorted(targeted)), covered)


def _stored_names(folder: Path, model: Any) -> Mapping[str, str]:
    """The names in the model of all stored tensors; none where only the config was fetched."""
    if not weight_files(folder):
        return {}
    return names_in_model(model, Weights(folder).names)
