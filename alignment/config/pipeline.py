"""The whole configuration of a run: the stages' own configs, composed. Read it as a contents page.

The defaults are the seed's values for Qwen2.5-7B-Instruct on one 40 GB card. `python -m
alignment.config.pipeline FILE` writes the JSON schema that editors use. Not here: YAML, overrides
and mistakes in them (`file.py`).
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from alignment.compose.settings import Compose, Merge
from alignment.config.inbox import InboxConfig
from alignment.data.build.settings import ConversationSetConfig, PairSetConfig
from alignment.evaluate.limits import GateConfig
from alignment.evaluate.settings import EvaluationConfig
from alignment.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter
from alignment.models.sources import ModelSource
from alignment.records import Frozen, Nf4, Quantisation, digest_of
from alignment.store.store import file_sha256
from alignment.train.settings import DpoConfig, SftConfig


class TrainedSft(Frozen):
    """Fine-tune an adapter on conversations first."""

    name: Literal["train"] = "train"
    data: ConversationSetConfig = Field(description="Conversations to imitate.")
    training: SftConfig = Field(default=SftConfig(), description="How the adapter is trained.")


class AdapterSft(Frozen):
    """Start from an SFT adapter that was trained elsewhere.

    A folder that is not there, or holds no adapter, means: no SFT adapter, the base model takes
    its place. A damaged adapter is an error.
    """

    name: Literal["adapter"] = "adapter"
    path: Path = Field(description="Folder written by PEFT's save_pretrained.")

    def present(self) -> bool:
        """Whether there is an adapter to start from, sound or not."""
        return any((self.path / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))

    def digest(self) -> str:
        """What names this adapter in a key: its bytes.

        Raises:
            ModelError: the adapter is incomplete or damaged.
        """
        check_adapter(self.path)
        files = [self.path / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
        return digest_of([file_sha256(file) for file in files])


class NoSft(Frozen):
    """No SFT: the rounds start from the base model."""

    name: Literal["none"] = "none"


Sft = Annotated[TrainedSft | AdapterSft | NoSft, Field(discriminator="name")]


class RoundConfig(Frozen):
    """One DPO round: its pairs, and its settings where they differ from `dpo`."""

    data: PairSetConfig = Field(description="Preference pairs of this round.")
    training: DpoConfig | None = Field(
        default=None, description="Settings of this round alone; the run's `dpo` otherwise."
    )


class ControlConfig(Frozen):
    """Beside the rounds: the SFT model trained on, by plain SFT, for as many steps.

    It imitates the chosen replies of the rounds' pairs, in the rounds' batch size, one pass: the
    same prompts and the same number of steps, without the preference.
    """

    learning_rate: PositiveFloat | None = Field(
        default=None, description="Peak learning rate; that of `sft.training` when absent."
    )


class PipelineConfig(Frozen):
    """One run of the pipeline."""

    name: str = Field(
        default="run", pattern=r"^[a-z0-9][a-z0-9-]*$", description="Name of the run in reports."
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Every stage derives a seed of its own from it."
    )
    store: Path = Field(default=Path("runs"), description="Folder in which artifacts live.")
    model: ModelSource = Field(description="The chat model to start from.")
    quantisation: Quantisation | None = Field(
        default=Nf4(),
        description="4-bit weights under the adapter in training; null for full weights.",
    )
    sft: Sft = Field(description="How the rounds' starting model comes to be.")
    dpo: DpoConfig = Field(default=DpoConfig(), description="Settings of every DPO round.")
    rounds: tuple[RoundConfig, ...] = Field(
        default=(), description="The DPO rounds, in order; each starts from the last that was kept."
    )
    gate: GateConfig | None = Field(
        default=GateConfig(),
        description="When a round is kept. The next one starts from it, otherwise from where it "
        "started; null: every round is kept.",
    )
    compose: Compose = Field(
        default=Merge(), description="How a stage's adapter is handed to the next stage."
    )
    control: ControlConfig | None = Field(
        default=None, description="A plain-SFT control beside the rounds; null for none."
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="The measurement every model of the chain gets."
    )
    stall_minutes: float | None = Field(
        default=60.0,
        gt=0,
        description="Minutes in which a step's process neither made progress nor wrote to its log, "
        "after which it is ended; the same command continues it. null: it is waited for for ever.",
    )
    gpu_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="GPU memory in GiB that a step may take for its tensors: a share of a card, or "
        "on a large card what must fit a smaller one. null: all there is.",
    )
    inbox: InboxConfig | None = Field(
        default=None,
        description="Where `sft-dpo round` finds new pairs after the rounds above; null: nowhere.",
    )

    def first_rounds(self, number: int) -> "PipelineConfig":
        """This run with its first rounds only."""
        return self.model_copy(update={"rounds": self.rounds[:number]})


def schema() -> dict[str, Any]:
    """The JSON schema of a config file."""
    return PipelineConfig.model_json_schema()


def _write_schema(path: Path) -> None:
    path.write_text(json.dumps(schema(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_schema(Path(sys.argv[1]))
