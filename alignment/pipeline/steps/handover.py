"""The handover: merges an adapter into the weights, or stacks it on the model.

The two kinds of step differ only in that. Both load the model as the next stage will, and compare
it with the probe that training recorded. Without an adapter, the model is passed on unchanged.
"""

from typing import Literal

from alignment.compose.settings import Merge, Stack
from alignment.pipeline.step import Context, Key, Outcome, Step, model_of
from alignment.records.refs import AdapterRef, ModelRef


class HandOver(Step):
    """Pass a trained model to the next stage; without an adapter, pass it unchanged.

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
        """Make the model for the next stage, and measure its distance from the trained one."""
        from alignment.compose.handover import Destination, compose_model
        from alignment.scoring.probe import probe_of

        store = context.store
        policy = model_of(store, self.policy)
        if self.adapter is None:
            note = "no SFT adapter: the base model takes its place"
            return Outcome(output=policy, notes=(note,))
        adapter = AdapterRef.model_validate(store.open(self.adapter).output)
        composed = compose_model(
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
        return Outcome(output=composed.ref, metrics=composed.metrics, notes=composed.notes)


class MergeAdapter(HandOver):
    """Merge the base and its adapters into one folder of weights."""

    stage: Literal["merge"] = "merge"
    version = 2
    title = "merge adapter"
    headline = ("kept_share", "kl")
    nominal_seconds = 6.0
    config: Merge


class StackAdapter(HandOver):
    """Stack the adapter on top of earlier ones; no weights are written."""

    stage: Literal["stack"] = "stack"
    title = "stack adapter"
    headline = ("mean_abs_logprob", "kl")
    nominal_seconds = 2.0
    config: Stack
