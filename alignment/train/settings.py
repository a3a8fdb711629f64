"""Settings of SFT and DPO: adapter, optimiser, schedule, batch and engine.

Every field is translated here to the argument names of TRL, PEFT and transformers
(`trainer_arguments`, `Lora.peft_arguments`), and the trainers are built from exactly these
arguments, so that `sft-dpo plan --json` shows what will run. Not here: losses (`losses.py`), data,
the training itself (`sft.py`, `dpo.py`).
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from alignment.records.base import Frozen
from alignment.scoring.engine import Engine, Packed, StepRows
from alignment.train.losses import Loss, Sigmoid

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Lora(Frozen):
    """A low-rank adapter (Hu et al. 2021): y += (alpha / r) * B A x; B starts at zero."""

    r: PositiveInt = Field(description="Rank of A and B. Default: 64 in SFT, 32 in DPO.")
    alpha: PositiveFloat = Field(description="Scale; the delta is alpha / r * B A. Default: 2 r.")
    dropout: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Dropout on the adapter's inputs during training. Adapters on experts in one "
        "tensor cannot have any.",
    )
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=SEVEN,
        description="Linear layers that get an adapter, by name; a name that the model lacks is an "
        "error. all-linear: every linear layer of the decoder's blocks and every expert, whatever "
        "its family calls them, except routers and what Mamba reads itself; experts need dropout "
        "0. Default: the seven of Llama, Qwen and Mistral; refused where they leave a part out.",
    )

    def peft_arguments(self) -> dict[str, Any]:
        """This adapter under the argument names of `peft.LoraConfig`."""
        return {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": "all-linear"
            if self.target_modules == "all-linear"
            else list(self.target_modules),
            "bias": "none",
            "task_type": "CAUSAL_LM",
        }


class TrainingSettings(Frozen):
    """Settings shared by SFT and DPO. Defaults: the reference recipe for 7B on a 40 GB GPU."""

    lora: Lora
    learning_rate: PositiveFloat = Field(
        description="Peak learning rate. Default: 2e-5 in SFT, 5e-6 in DPO."
    )
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="Learning-rate schedule after warm-up."
    )
    warmup_ratio: float = Field(
        ge=0, lt=1, description="Share of the steps in which the learning rate rises from 0."
    )
    batch: StepRows = Field(
        default=StepRows(), description="Default: 2 x 8 = 16 rows per optimiser step."
    )
    engine: Engine = Field(
        default=Packed(),
        description="How rows reach the model. stock: TRL's padded batches. packed: end to end "
        "within a token budget, with the prompt of a pair only once. Same gradients, different "
        "speed.",
    )
    epochs: PositiveFloat = Field(description="Passes over the data. Default: 3 in SFT, 1 in DPO.")
    max_steps: PositiveInt | None = Field(
        default=None, description="Optimiser steps; overrides `epochs`. For short runs."
    )
    max_length: PositiveInt = Field(
        default=4096, description="Maximum tokens of prompt and reply together."
    )
    optimiser: Literal["adamw_torch_fused", "adamw_torch", "paged_adamw_8bit"] = Field(
        default="adamw_torch_fused", description="Optimiser, by transformers' name."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Decoupled weight decay.")
    max_grad_norm: PositiveFloat = Field(default=1.0, description="Gradient norm limit.")
    bf16: bool = Field(
        default=True,
        description="Compute in bfloat16. Adapter weights stay in fp32, because at these learning "
        "rates bfloat16 could not resolve their updates. Set to false on a CPU, where fp32 is "
        "faster.",
    )
    gradient_checkpointing: bool = Field(
        default=True,
        description="Recompute activations in the backward pass: saves memory, costs about a third "
        "more time. Always non-reentrant.",
    )
    save_every: PositiveInt = Field(
        default=25,
        description="Optimiser steps between checkpoints: the most that are lost if a run is "
        "killed.",
    )
    evaluate_every: PositiveInt | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Optimiser steps between evaluations during training; below 1, a share of all "
        "steps: 0.1 evaluates ten times. null: only after the last step, which is always followed "
        "by one. The training itself stays the same.",
    )
    evaluation_rows: int = Field(
        default=128, ge=0, description="Held-out rows used in each of these evaluations; 0 = none."
    )
    samples: int = Field(
        default=4,
        ge=0,
        description="Held-out prompts to generate sample replies for, before the first step and "
        "at each evaluation.",
    )
    sample_tokens: PositiveInt = Field(
        default=128, description="Maximum length of a sample reply, in tokens."
    )

    @property
    def checkpointing(self) -> str:
        """Which layers recompute their activations in the backward pass, in words."""
        if not self.gradient_checkpointing:
            return "off, every layer keeps its activations"
        return f"{self.engine.recomputing}, never reentrant"

    def trainer_arguments(self, *, seed: int) -> dict[str, Any]:
        """These settings under the argument names of transformers and TRL.

        What depends on the machine (`output_dir`, `use_cpu`) is added by `on_this_machine`.
        """
        evaluate = "no" if self.evaluate_every is None else "steps"
        return {
            "seed": seed,
            "data_seed": seed,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup_ratio,  # transformers takes a value below 1 as a ratio
            **self.engine.batch_arguments(self.batch),
            "num_train_epochs": self.epochs,
            "max_steps": self.max_steps or -1,
            "max_length": self.max_length,
            "optim": self.optimiser,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "bf16": self.bf16,
            **checkpointing_arguments(on=self.gradient_checkpointing),
            "logging_steps": 1,
            "logging_nan_inf_filter": False,  # the filter would log a NaN loss as 0.0
            "save_strategy": "steps",
            "save_steps": self.save_every,
            "eval_strategy": evaluate,
            "eval_steps": self.evaluate_every,
            # TRL would add the experts' load balance to the loss; an adapter's router is frozen
            "router_aux_loss_coef": 0.0,
            "remove_unused_columns": False,
            "report_to": "none",
            "disable_tqdm": True,
        }


def checkpointing_arguments(*, on: bool) -> dict[str, Any]:
    """Activation checkpointing under the argument name of the installed transformers version."""
    name = "activation_checkpointing" if _renamed_checkpointing() else "gradient_checkpointing"
    arguments: dict[str, Any] = {name: on}
    if on:
        arguments[f"{name}_kwargs"] = {"use_reentrant": False}
    return arguments


@cache
def _renamed_checkpointing() -> bool:
    # transformers 5.23 renames gradient_checkpointing and warns about the old name.
    try:
        major, minor = (int(part) for part in version("transformers").split(".")[:2])
    except PackageNotFoundError:  # an installation that only plans
        return True
    return (major, minor) >= (5, 23)


class SftConfig(TrainingSettings):
    """Supervised fine-tuning. The defaults are the reference recipe's."""

    lora: Lora = Field(default=Lora(r=64, alpha=128), description="The adapter to train.")
    learning_rate: PositiveFloat = Field(default=2e-5, description="Peak learning rate.")
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps used for warm-up."
    )
    epochs: PositiveFloat = Field(default=3, description="Passes over the conversations.")
    max_length: PositiveInt = Field(
        default=4096,
        description="Maximum tokens of a conversation. Longer ones are never cut: `data.too_long` "
        "says whether they are quarantined or lose their oldest turns.",
    )

    def trl_arguments(self, *, seed: int) -> dict[str, Any]:
        """These settings under the argument names of `trl.SFTConfig`.

        `packing` is off: no token may attend across two conversations.
        """
        return {**self.trainer_arguments(seed=seed), "packing": False}


class DpoConfig(TrainingSettings):
    """One round of direct preference optimisation. The defaults are the reference recipe's."""

    lora: Lora = Field(default=Lora(r=32, alpha=64), description="The round's fresh adapter.")
    learning_rate: PositiveFloat = Field(default=5e-6, description="Peak learning rate.")
    warmup_ratio: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the steps used for warm-up."
    )
    epochs: PositiveFloat = Field(default=1, description="Passes over the round's pairs.")
    loss: Loss = Field(default=Sigmoid(), description="The preference loss.")
    reference: Literal["round_start", "anchor"] = Field(
        default="round_start",
        exclude_if=lambda reference: reference == "round_start",
        description="The model that the loss pulls towards. round_start: the one that the round "
        "starts from. anchor: the one that the first round starts from; for rounds from an inbox, "
        "the one that a person approved last. It scores the pairs once, before the training.",
    )
    sft_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the chosen reply's mean negative log-likelihood, added to the "
        "loss (Pang et al. 2024, eq. 4). Default: 0, plain DPO.",
    )
    max_length: PositiveInt = Field(
        default=4096,
        description="Maximum tokens of prompt and reply together. A reply beyond it is cut at its "
        "end, see `min_completion_tokens`.",
    )
    max_prompt_length: PositiveInt = Field(
        default=2048,
        description="Maximum tokens of a prompt. Its oldest turns are dropped until it fits; the "
        "system turn and the last user turn are kept.",
    )
    min_completion_tokens: PositiveInt = Field(
        default=1,
        description="Tokens of a reply that must remain after cutting to max_length; pairs with "
        "fewer are quarantined.",
    )

    @model_validator(mode="after")
    def _room_for_a_reply(self) -> Self:
        if self.max_prompt_length + self.min_completion_tokens > self.max_length:
            raise ValueError(
                f"max_prompt_length {self.max_prompt_length} + min_completion_tokens "
                f"{self.min_completion_tokens} exceed max_length {self.max_length}; lower one of "
                "the first two or raise max_length"
            )
        return self

    @model_validator(mode="after")
    def _loss_that_the_engine_has(self) -> Self:
        if self.loss.trl_type is None and not self.engine.any_loss:
            raise ValueError(
                f"engine {self.engine.name} has no {self.loss.name} loss (TRL's trainer lacks it); "
                "set engine: {name: packed}, or choose another loss"
            )
        return self

    @model_validator(mode="after")
    def _reference_that_the_loss_uses(self) -> Self:
        if self.reference != "round_start" and not self.loss.uses_reference:
            raise ValueError(f"loss {self.loss.name} has no reference; remove `reference`")
        return self

    def trl_arguments(self, *, seed: int) -> dict[str, Any]:
        """These settings under the argument names of `trl.DPOConfig`.

        `disable_dropout` is off, because it would disable the adapter's dropout. The reference is
        unaffected: it runs without the adapter.
        """
        arguments = {**self.trainer_arguments(seed=seed), **self.loss.trl_arguments()}
        if self.sft_weight and self.loss.trl_type:
            arguments["loss_type"] = [*arguments["loss_type"], "sft"]
            arguments["loss_weights"] = [1.0, self.sft_weight]
        return {**arguments, "disable_dropout": False}
