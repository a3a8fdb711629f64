"""The steps that make an adapter: SFT, a DPO round, or importing one from elsewhere.

Each writes `adapter/` and a probe of the model with that adapter. The handover compares the model
that it makes with this probe.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from alignment.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    base_below,
    describe_adapter,
    name_base,
)
from alignment.pipeline.step import (
    Context,
    Key,
    Outcome,
    Step,
    conversations_of,
    data_of,
    model_of,
    rows_of,
)
from alignment.records.refs import AdapterRef, DataRef, ModelRef, Quantisation, RowsRef
from alignment.records.text import Conversation, PreferencePair
from alignment.records.training import PairReference
from alignment.store.durable import staged
from alignment.store.jsonl import read_rows
from alignment.store.store import Store
from alignment.train.settings import DpoConfig, SftConfig

if TYPE_CHECKING:
    from alignment.models.load import LoadedModel
    from alignment.train.loop import TrainingSummary


class TrainSft(Step):
    """Train an SFT adapter. A preference pair is imitated as its prompt and chosen reply.

    `watched` are the sets whose held-out rows are evaluated during training.
    """

    stage: Literal["sft"] = "sft"
    version = 3  # 2 let TRL encode the rendered text again: two BOS tokens in some families
    title = "train SFT adapter"
    produces = AdapterRef
    parent_fields = ("policy", "data", "watched")
    headline = ("loss", "eval_loss")
    needs_gpu = True
    shares = True
    nominal_seconds = 60.0
    config: SftConfig
    policy: Key
    data: tuple[Key, ...]
    watched: tuple[Key, ...]

    @property
    def foreseen(self) -> tuple[str, ...]:
        """Which activations are recomputed: the library's flag alone does not say."""
        return (f"checkpointing: {self.config.checkpointing}",)

    def library_arguments(self, quantisation: Quantisation | None) -> dict[str, dict[str, Any]]:
        """The arguments of TRL, PEFT and bitsandbytes."""
        return {
            "trl.SFTConfig": self.config.trl_arguments(seed=self.seed),
            **_adapter_arguments(self.config, quantisation),
        }

    def build(self, context: Context) -> Outcome:
        """Train the adapter and write it."""
        from alignment.train.sft import train_sft

        policy = open_policy(context.store, self.policy, bf16=self.config.bf16)
        sets = [data_of(context.store, key) for key in self.data]
        watched = [data_of(context.store, key) for key in self.watched]
        summary = train_sft(
            self.config,
            policy=policy,
            conversations=conversations_of(context.store, sets, "train"),
            held_out=conversations_of(context.store, watched, "held_out"),
            seed=self.seed,
            workspace=context.workspace,
            progress=context.progress,
        )
        return _training_outcome(self, context, policy, summary, sets)


class TrainDpo(Step):
    """Train the adapter of one DPO round; `watched` as in `TrainSft`.

    `reference` has the log-probs of its pairs under another model than `policy`, its reference.
    """

    stage: Literal["dpo"] = "dpo"
    version = 3  # 2 also trained the newline that ChatML writes after the stop token
    title = "train DPO round"
    produces = AdapterRef
    parent_fields = ("policy", "data", "watched", "reference")
    headline = (
        "loss",
        "eval_rewards/accuracies",
        "eval_rewards/margins",
    )
    needs_gpu = True
    shares = True
    nominal_seconds = 66.0
    config: DpoConfig
    policy: Key
    data: Key
    watched: tuple[Key, ...]
    reference: Key | None = Field(default=None, exclude_if=lambda key: key is None)

    @property
    def foreseen(self) -> tuple[str, ...]:
        """Which activations are recomputed: the library's flag alone does not say."""
        return (f"checkpointing: {self.config.checkpointing}",)

    def library_arguments(self, quantisation: Quantisation | None) -> dict[str, dict[str, Any]]:
        """The arguments of TRL, PEFT and bitsandbytes, and the prompt limit that TRL lacks."""
        return {
            "trl.DPOConfig": self.config.trl_arguments(seed=self.seed),
            **_adapter_arguments(self.config, quantisation),
            "prompts": {"max_prompt_length": self.config.max_prompt_length},
        }

    def build(self, context: Context) -> Outcome:
        """Train the adapter and write it."""
        from alignment.train.dpo import train_dpo

        policy = open_policy(context.store, self.policy, bf16=self.config.bf16)
        data = data_of(context.store, self.data)
        watched = [data_of(context.store, key) for key in self.watched]
        summary = train_dpo(
            self.config,
            policy=policy,
            pairs=list(read_rows(context.store.path(data.train), PreferencePair)),
            held_out=list(rows_of(context.store, watched, "held_out", PreferencePair)),
            seed=self.seed,
            workspace=context.workspace,
            progress=context.progress,
            reference=self._scored(context.store),
        )
        return _training_outcome(self, context, policy, summary, [data])

    def _scored(self, store: Store) -> dict[str, PairReference] | None:
        if self.reference is None:
            return None
        ref = RowsRef.model_validate(store.open(self.reference).output)
        return {row.id: row for row in read_rows(store.path(ref.rows), PairReference)}


class UseAdapter(Step):
    """Import an SFT adapter that was trained elsewhere.

    `probe` are the sets whose rows are used to probe the model.
    """

    stage: Literal["adapter"] = "adapter"
    version = 2
    title = "take SFT adapter"
    produces = AdapterRef
    parent_fields = ("policy", "probe")
    needs_gpu = True
    nominal_seconds = 2.0
    notes_matter = True
    path: Path
    digest: str
    policy: Key
    probe: tuple[Key, ...]
    bf16: bool

    def build(self, context: Context) -> Outcome:
        """Check the adapter, copy it into the store and probe the model with it."""
        from alignment.models.stack import attach
        from alignment.scoring.probe import PROBE_FILE, last_replies, probe_rows, record_probe

        policy = open_policy(context.store, self.policy, bf16=self.bf16)
        folder = context.workspace.out / "adapter"
        with staged("adapter.copy", folder) as place:
            place.mkdir()
            for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                shutil.copy(self.path / name, place / name)
            name_base(place, base_below(policy.ref, Path(str(policy.model.name_or_path))))
        uri = f"store:{self.key}/adapter"
        ref = describe_adapter(folder, uri=uri, stage=self.name, trained_on=policy.ref.ref_hash)
        attach(policy.model, [folder])
        sets = [data_of(context.store, key) for key in self.probe]
        rows = probe_rows(last_replies(policy.tokenizer, _probe_conversations(context.store, sets)))
        record_probe(policy.model, rows).save(context.workspace.out / PROBE_FILE)
        return Outcome(output=ref, notes=(f"adapter taken from {self.path}",))


class MissingAdapter(Step):
    """Record that the configured SFT adapter is not there, and which model takes its place.

    No step starts from it: without an adapter, later keys are those of a run without SFT.
    """

    stage: Literal["fallback"] = "fallback"
    title = "miss SFT adapter"
    produces = ModelRef
    parent_fields = ("policy",)
    in_child = False
    nominal_seconds = 0.1
    notes_matter = True
    path: Path
    policy: Key

    @property
    def foreseen(self) -> tuple[str, ...]:
        """The path that has no adapter."""
        return (f"no SFT adapter in {self.path}: the base model takes its place",)

    def build(self, context: Context) -> Outcome:
        """The base model, with the note."""
        return Outcome(output=model_of(context.store, self.policy), notes=self.foreseen)


def _adapter_arguments(
    config: SftConfig | DpoConfig, quantisation: Quantisation | None
) -> dict[str, dict[str, Any]]:
    return {
        "peft.LoraConfig": config.lora.peft_arguments(),
        "bitsandbytes": quantisation.bitsandbytes_arguments() if quantisation else {},
    }


def open_policy(store: Store, key: str, *, bf16: bool) -> "LoadedModel":
    """The model that a step produced, as a training loads it."""
    from alignment.models.load import open_model

    return open_model(model_of(store, key), store, dtype="bfloat16" if bf16 else "float32")


def _training_outcome(
    step: TrainSft | TrainDpo,
    context: Context,
    policy: "LoadedModel",
    summary: "TrainingSummary",
    sets: Sequence[DataRef],
) -> Outcome:
    from alignment.scoring.probe import PROBE_FILE, last_replies, probe_rows, save_probe

    out = context.workspace.out
    ref = describe_adapter(
        out / "adapter",
        uri=f"store:{step.key}/adapter",
        stage=step.name,
        trained_on=policy.ref.ref_hash,
    )
    rows = probe_rows(last_replies(policy.tokenizer, _probe_conversations(context.store, sets)))
    gap = save_probe(policy.model, rows, out / PROBE_FILE, bf16=step.config.bf16)
    share = 100 * summary.trainable / summary.parameters
    notes = [
        f"{summary.trainable:,} of {summary.parameters:,} parameters trained ({share:.2f} %)",
    ]
    if summary.left_out is not None:
        notes.append(summary.left_out)
    if summary.resumed_at is not None:
        notes.append(f"resumed at step {summary.resumed_at} of {summary.steps}")
    metrics = {
        "steps": float(summary.steps),
        "loss": summary.loss,
        **summary.evaluation,
        **summary.chosen,
        "freezing_gap": gap,
    }
    return Outcome(output=ref, metrics=metrics, notes=tuple(notes))


def _probe_conversations(store: Store, sets: Sequence[DataRef]) -> list[Conversation]:
    """The rows to probe a model on: held-out rows, or training rows if none are held out."""
    return conversations_of(store, sets, "held_out") or conversations_of(store, sets, "train")
