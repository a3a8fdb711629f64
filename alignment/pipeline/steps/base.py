"""The first step, which makes a base model available."""

from typing import Any, Literal

from alignment.models.sources import ModelSource
from alignment.pipeline.step import Context, Outcome, Step
from alignment.records import ModelRef, Quantisation


class OpenBase(Step):
    """Make a base model available and describe it. A hub model stays in the hub cache."""

    stage: Literal["base"] = "base"
    title = "open base model"
    produces = ModelRef
    nominal_seconds = 24.0
    source: ModelSource
    quantisation: Quantisation | None
    digest: str

    def library_arguments(self, quantisation: Quantisation | None) -> dict[str, dict[str, Any]]:
        """The arguments of bitsandbytes."""
        return {"bitsandbytes": quantisation.bitsandbytes_arguments() if quantisation else {}}

    def build(self, context: Context) -> Outcome:
        """Fetch the model, convert it if needed, check and describe it."""
        from alignment.models.description import describe

        context.progress.update("fetching", 0, 1)
        folder, uri, revision = self.source.fetch(context.workspace.out)
        base, tokenizer = describe(folder, uri, revision)
        if uri.startswith("out:"):
            stored = f"store:{self.key}/{uri[4:]}"
            base = base.model_copy(update={"uri": stored})
            tokenizer = tokenizer.model_copy(update={"uri": stored})
        ref = ModelRef(base=base, tokenizer=tokenizer, quantisation=self.quantisation)
        return Outcome(output=ref, notes=(f"base model {uri} {revision or ''}".strip(),))
