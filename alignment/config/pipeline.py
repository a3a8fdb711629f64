"""The whole configuration of a run, composed of the configs of its stages: a table of contents.

The defaults are the reference recipe, for Qwen2.5-7B-Instruct on one 40 GB card. `python -m
alignment.config.pipeline FILE` writes the JSON schema that editors use. Not here: YAML, overrides
and their error messages (`file.py`).
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from alignment.candidates.settings import OwnAnswers
from alignment.compose.settings import Compose, Merge
from alignment.config.inbox import InboxConfig
from alignment.data.build.settings import ConversationSetConfig, PairSetConfig
from alignment.data.read.files import SecretFound
from alignment.evaluate.settings import (
    AnchoredGate,
    EvaluationConfig,
    GateConfig,
    OnRegression,
    PlainGate,
)
from alignment.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter
from alignment.models.sources import ModelSource
from alignment.models.template import ModelTemplate, Template
from alignment.records.base import Frozen, digest_of
from alignment.records.refs import Nf4, Quantisation
from alignment.store.checksum import file_sha256
from alignment.store.places import store_at, store_place
from alignment.store.runs import run_id
from alignment.store.store import Store
from alignment.trackers.settings import Tracker
from alignment.train.settings import DpoConfig, SftConfig

DeviceName = Literal["auto", "cuda", "cpu"]
Devices = Literal["auto"] | PositiveInt


class Machines(Frozen):
    """Several machines that build a step together; they share the folder of the store."""

    count: int = Field(ge=2, description="How many machines, the one that runs the command too.")
    address: str = Field(
        pattern=r"^[^:]+:\d+$",
        description="HOST:PORT of the machine that runs the command. The others join it there: "
        "`sft-dpo join HOST:PORT`. Whoever reaches it can take part, so it belongs in a network "
        "that you trust.",
    )


def _place(place: object) -> Path | str:
    try:
        return store_place(place)
    except ValueError as error:
        raise SecretFound(str(error)) from None


class SftCheck(Frozen):
    """How an SFT model is compared with the base model, before any round. Abstract."""

    gate: PlainGate | None = Field(
        default=PlainGate(max_length_growth=None),
        description="What counts as a regression: SFT is shown to be worse than the base model on "
        "the evaluation rows, or fewer of its replies end by themselves. null: do not compare.",
    )
    on_regression: OnRegression = Field(
        default="keep_sft",
        description="Where the rounds start after a regression. Either way the report, the run's "
        "page and `sft-dpo show` say so.",
    )


class TrainedSft(SftCheck):
    """Train an SFT adapter on conversations first."""

    name: Literal["train"] = "train"
    data: ConversationSetConfig = Field(description="Conversations to imitate.")
    training: SftConfig = Field(
        default=SftConfig(), description="Training settings of the adapter."
    )


class AdapterSft(SftCheck):
    """Start from an SFT adapter that was trained elsewhere.

    If the folder does not exist or contains no adapter, the rounds start from the base model. A
    damaged adapter is an error.
    """

    name: Literal["adapter"] = "adapter"
    path: Path = Field(description="Folder written by PEFT's save_pretrained.")

    def present(self) -> bool:
        """Whether the folder contains an adapter, valid or not."""
        return any((self.path / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))

    def digest(self) -> str:
        """Digest of the adapter's files, which identifies it in a key.

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


def _kind_of_data(data: object) -> str:
    name = data.get("name") if isinstance(data, dict) else getattr(data, "name", None)
    return "pair_set" if name is None else "own_answers"


RoundData = Annotated[
    Annotated[PairSetConfig, Tag("pair_set")] | Annotated[OwnAnswers, Tag("own_answers")],
    Discriminator(_kind_of_data),
]


class RoundConfig(Frozen):
    """One DPO round: its pairs, and its training settings if they differ from `dpo`."""

    data: RoundData = Field(
        description="Preference pairs of this round: a set with its sources, or `{name: "
        "own_answers, prompts: [...]}`, made from the model's own answers."
    )
    training: DpoConfig | None = Field(
        default=None, description="Settings for this round only; if not set, those in `dpo`."
    )


class ControlConfig(Frozen):
    """A control for the rounds: the SFT model, trained further with plain SFT for as many steps.

    It imitates the chosen replies of the rounds' pairs, with the batch size and epochs in `dpo`:
    the same prompts and the same number of steps, but no preference signal. Rounds on own answers
    are left out, since their pairs do not exist before the models that answer.
    """

    learning_rate: PositiveFloat | None = Field(
        default=None, description="Peak learning rate; if not set, the one in `sft.training`."
    )


class PipelineConfig(Frozen):
    """One run of the pipeline."""

    name: str = Field(
        default="run", pattern=r"^[a-z0-9][a-z0-9-]*$", description="Name of the run in reports."
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Random seed, from which each stage derives its own."
    )
    store: Annotated[Path | str, PlainValidator(_place, json_schema_input_type=str)] = Field(
        default=Path("runs"),
        description="Folder for the artifacts; or a bucket, s3://BUCKET/PREFIX, gs://... or "
        "az://..., which several machines may share. Credentials are those of the environment.",
    )
    store_cache: Path | None = Field(
        default=None,
        description="Folder of the working copy of a bucket; null: one for each bucket in "
        "~/.cache/sft-dpo.",
    )
    device: DeviceName = Field(
        default="auto",
        description="Where models run. cuda: a GPU; without a usable one, the run is refused with "
        "the reason. cpu: the CPU, even beside a GPU. auto: a GPU if there is one. Not part of any "
        "key: artifacts are reused across devices.",
    )
    devices: Devices = Field(
        default=1,
        description="How many devices of this machine a step uses that trains with the packed "
        "engine, scores or answers: one process each, which share out the rows. auto: all GPUs. On "
        "a CPU, so many processes. Not part of any key: a step continues on another number of "
        "devices.",
    )
    machines: Machines | None = Field(
        default=None,
        description="Several machines with as many `devices` each, which share the folder of the "
        "store; null: this one. Not part of any key.",
    )
    model: ModelSource = Field(description="The chat model to start from.")
    template: Template = Field(
        default=ModelTemplate(),
        description="The chat template: the model's own, a file's, or TRL's for training. It goes "
        "with the model into every stage and export.",
    )
    quantisation: Quantisation | None = Field(
        default=Nf4(),
        description="4-bit base weights during training; null for full weights.",
    )
    sft: Sft = Field(description="How the model that the rounds start from is made.")
    dpo: DpoConfig = Field(default=DpoConfig(), description="Settings of every DPO round.")
    rounds: tuple[RoundConfig, ...] = Field(
        default=(), description="The DPO rounds in order; each starts from the last model kept."
    )
    gate: GateConfig | None = Field(
        default=AnchoredGate(),
        description="Criteria for keeping a round. After a kept round, the next starts from it; "
        "otherwise from the same model as the rejected one. null: keep every round.",
    )
    compose: Compose = Field(
        default=Merge(), description="How the adapter of a stage is passed to the next stage."
    )
    control: ControlConfig | None = Field(
        default=None, description="A plain-SFT control for the rounds; null for none."
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="How every model of the run is evaluated."
    )
    stall_minutes: float | None = Field(
        default=60.0,
        gt=0,
        description="Stop a step's process after this many minutes without progress or log output; "
        "running the same command again resumes it. null: no timeout.",
    )
    gpu_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Limit on a step's tensor memory in GiB, e.g. to share a GPU or to emulate a "
        "smaller one. null: no limit.",
    )
    trackers: tuple[Tracker, ...] = Field(
        default=(),
        description="Experiment trackers that follow what a run builds. Not part of any "
        "key. One that raises or hangs is named once and left; the run goes on.",
    )
    inbox: InboxConfig | None = Field(
        default=None,
        description="Where `sft-dpo round` finds new pairs after the rounds above; null: nowhere.",
    )

    @model_validator(mode="after")
    def _measured(self) -> Self:
        """Own answers hold nothing out, so some other set must."""
        own = [isinstance(round_.data, OwnAnswers) for round_ in self.rounds]
        if own and all(own) and self.evaluation.data is None:
            raise ValueError(
                "rounds on own answers hold no rows out, so no model could be measured; add "
                "evaluation.data"
            )
        return self

    @model_validator(mode="after")
    def _in_one_folder(self) -> Self:
        """Machines that build a step together write into one folder."""
        if self.machines is not None and isinstance(self.store, str):
            raise ValueError(
                "machines that build a step together share the folder of the store, and a bucket "
                "has one on each machine: set store to a folder that all see, or machines to null"
            )
        return self

    def open_store(self) -> Store:
        """The store of the run's artifacts; `connect` takes over what a bucket has."""
        return store_at(self.store, self.store_cache)

    def first_rounds(self, number: int) -> "PipelineConfig":
        """The same run with only its first `number` rounds."""
        return self.model_copy(update={"rounds": self.rounds[:number]})


def reference_of(config: PipelineConfig) -> str:
    """The run's name in references: no other config of its name has it."""
    return f"{config.name}-{run_id(config.model_dump(mode='json'))}"


def schema() -> dict[str, Any]:
    """The JSON schema of a config file."""
    return PipelineConfig.model_json_schema()


def _write_schema(path: Path) -> None:
    path.write_text(json.dumps(schema(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_schema(Path(sys.argv[1]))
