"""The hand-over: an adapter becomes weights or is carried along, or there is none.

Two kinds of step that differ in that alone. Both load the model as the next stage will and hold
it against the probe that its training left.
"""

from typing import Literal

from alignment.compose.settings import Merge, Stack
from alignment.pipeline.step import Context, Key, Outcome, Step, model_of
from alignment.records import AdapterRef, ModelRef


class HandOver(Step):
    """Hand a trained model to the next stage; without an adapter, the model as it is.

    `dtype` is the compute dtype of the next stage.
    """

    produces = ModelRef
    parent_fields = ("policy", "adapter")
    needs_gpu = True
    notes_matter = True
    config: Merge | Stack
    policy: Key
    adapter: Key | None
    dtype: Literal["float32", "bfloat16"]

    def build(self, context: Context) -> Outcome:
        """Make the model that the next stage takes, and measure it."""
        from alignment.compose.handover import Destination, compose_model
        from alignment.scoring.probe import probe_of

        store = context.store
        policy = model_of(store, self.policy)
        if self.adapter is None:
            note = "no SFT adapter: the base model takes its place"
            return Outcome(output=policy, notes=(note,))
        adapter = AdapterRef.model_validate(store.open(self.adapter).output)
        done = compose_model(
            policy.push(adapter),
            self.config,
            probe=probe_of(store, adapter),
            destination=Destination(
                store=store,
                folder=context.workspace.out / "model",
                uri=f"store:{self.key}/model",
                dtype=self.dtype,
                progress=context.progress,
            ),
        )
        return Outcome(output=done.ref, metrics=done.metrics, notes=done.notes)


class MergeAdapter(HandOver):
    """Write base and adapters as one folder of weights."""

    stage: Literal["merge"] = "merge"
    version = 2
    title = "merge adapter"
    headline = ("kept_share", "kl")
    nominal_seconds = 6.0
    config: Merge


class StackAdapter(HandOver):
    """Carry the adapter along on top of those before it."""

    stage: Literal["stack"] = "stack"
    title = "stack adapter"
    headline = ("mean_abs_logprob", "kl")
    nominal_seconds = 2.0
    config: Stack
