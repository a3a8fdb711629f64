"""The hand-over: an adapter becomes weights, or there is none and the model stays as it is."""

from typing import Literal

from alignment.models.merge import Merge
from alignment.records import AdapterRef
from alignment.stages.step import (
    Context,
    Key,
    Outcome,
    Step,
    as_json,
    conversations_of,
    data_of,
    model_of,
)


class MergeAdapter(Step):
    """Hand a trained model over as one folder; without an adapter, the model as it is.

    `probe` is the data whose held-out rows the hand-over is measured on.
    """

    stage: Literal["merge"] = "merge"
    config: Merge
    policy: Key
    adapter: Key | None
    probe: tuple[Key, ...]
    probe_dtype: Literal["float32", "bfloat16"]

    def build(self, context: Context) -> Outcome:
        """Merge, measure what was lost, describe."""
        from alignment.evaluate.fidelity import hand_over

        policy = model_of(context.store, self.policy)
        if self.adapter is None:
            note = "no SFT adapter: the base model takes its place"
            return Outcome(output=as_json(policy), notes=(note,))
        adapter = AdapterRef.model_validate(context.store.open(self.adapter).output)
        sets = [data_of(context.store, key) for key in self.probe]
        merged = hand_over(
            policy.push(adapter),
            self.config,
            store=context.store,
            probes=conversations_of(context.store, sets, "held_out")
            or conversations_of(context.store, sets, "train"),
            probe_dtype=self.probe_dtype,
            folder=context.workspace.out / "model",
            uri=f"store:{self.key}/model",
            progress=context.progress,
        )
        made = merged.materialised
        assert made is not None
        metrics = {"kept_share": made.kept_share, **made.probe}
        return Outcome(output=as_json(merged), metrics=metrics, notes=_merge_notes(made.kept_share))


def _merge_notes(kept_share: float) -> tuple[str, ...]:
    if kept_share >= 0.95:
        return ()
    return (
        f"the merge kept {kept_share:.2f} of the training's change: write it in fp32 with "
        "compose.dtype=float32",
    )
