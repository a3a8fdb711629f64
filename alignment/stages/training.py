"""The steps that make an adapter: SFT, a DPO round, or taking one from elsewhere."""

from pathlib import Path
from typing import ClassVar, Literal

from alignment.data.sieve import read_rows
from alignment.records import ModelRef, PreferencePair
from alignment.stages.step import (
    Context,
    Key,
    Outcome,
    Step,
    as_json,
    conversations_of,
    data_of,
    model_of,
    rows_of,
)
from alignment.train.dpo import DpoConfig, train_dpo
from alignment.train.sft import SftConfig, TrainingSummary, train_sft


class TrainSft(Step):
    """Train an SFT adapter. Pairs among the data are imitated: prompt and chosen reply.

    `watched` are the sets whose held-out rows are looked at during training.
    """

    stage: Literal["sft"] = "sft"
    config: SftConfig
    policy: Key
    data: tuple[Key, ...]
    watched: tuple[Key, ...]

    def build(self, context: Context) -> Outcome:
        """Train and write the adapter."""
        from alignment.models.load import open_model

        policy = model_of(context.store, self.policy)
        sets = [data_of(context.store, key) for key in self.data]
        watched = [data_of(context.store, key) for key in self.watched]
        summary = train_sft(
            self.config,
            policy=open_model(policy, context.store, dtype=_dtype(bf16=self.config.bf16)),
            conversations=conversations_of(context.store, sets, "train"),
            held_out=conversations_of(context.store, watched, "held_out"),
            seed=self.seed,
            workspace=context.workspace,
            progress=context.progress,
        )
        return _trained(self, context, policy, summary)


class TrainDpo(Step):
    """Train the adapter of one DPO round; `watched` as in `TrainSft`."""

    stage: Literal["dpo"] = "dpo"
    config: DpoConfig
    policy: Key
    data: Key
    watched: tuple[Key, ...]

    def build(self, context: Context) -> Outcome:
        """Train and write the adapter."""
        from alignment.models.load import open_model

        policy = model_of(context.store, self.policy)
        data = data_of(context.store, self.data)
        watched = [data_of(context.store, key) for key in self.watched]
        summary = train_dpo(
            self.config,
            policy=open_model(policy, context.store, dtype=_dtype(bf16=self.config.bf16)),
            pairs=list(read_rows(context.store.path(data.train), PreferencePair)),
            held_out=list(rows_of(context.store, watched, "held_out", PreferencePair)),
            seed=self.seed,
            workspace=context.workspace,
            progress=context.progress,
        )
        return _trained(self, context, policy, summary)


class UseAdapter(Step):
    """Take an SFT adapter that was trained elsewhere."""

    stage: Literal["adapter"] = "adapter"
    in_child: ClassVar[bool] = False
    path: Path
    digest: str
    policy: Key

    def build(self, context: Context) -> Outcome:
        """Check the adapter and copy it into the store."""
        import shutil

        from alignment.models.load import ADAPTER_CONFIG, ADAPTER_WEIGHTS, describe_adapter

        folder = context.workspace.out / "adapter"
        folder.mkdir(exist_ok=True)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copy(self.path / name, folder / name)
        policy = model_of(context.store, self.policy)
        uri = f"store:{self.key}/adapter"
        ref = describe_adapter(folder, uri=uri, stage=self.name, trained_on=policy.ref_hash)
        return Outcome(output=as_json(ref), notes=(f"adapter taken from {self.path}",))


def _trained(step: Step, context: Context, policy: ModelRef, summary: TrainingSummary) -> Outcome:
    from alignment.models.load import describe_adapter

    ref = describe_adapter(
        context.workspace.out / "adapter",
        uri=f"store:{step.key}/adapter",
        stage=step.name,
        trained_on=policy.ref_hash,
    )
    share = 100 * summary.trainable / summary.parameters
    metrics = {"steps": float(summary.steps), "loss": summary.loss, **summary.evaluation}
    if summary.tokens_per_micro_batch is not None:
        metrics["tokens_per_micro_batch"] = float(summary.tokens_per_micro_batch)
    note = f"{summary.trainable:,} of {summary.parameters:,} parameters trained ({share:.2f} %)"
    return Outcome(output=as_json(ref), metrics=metrics, notes=(note,))


def _dtype(*, bf16: bool) -> str:
    return "bfloat16" if bf16 else "float32"
