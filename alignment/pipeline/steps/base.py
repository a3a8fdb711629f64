"""The first step, which makes a base model available."""

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from alignment.errors import ModelError
from alignment.models.sources import ModelSource
from alignment.models.template import ModelTemplate, Template
from alignment.pipeline.step import Context, Outcome, Step
from alignment.records.refs import ModelRef, Quantisation


class OpenBase(Step):
    """Make a base model available and describe it. A hub model stays in the hub cache."""

    stage: Literal["base"] = "base"
    title = "open base model"
    produces = ModelRef
    nominal_seconds = 24.0
    source: ModelSource
    quantisation: Quantisation | None
    digest: str
    template: Template = ModelTemplate()

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the usual template, so that keys from before it was a setting stay."""
        dumped: dict[str, Any] = serialise(self)
        if self.template == ModelTemplate():
            dumped.pop("template", None)
        return dumped

    def library_arguments(self, quantisation: Quantisation | None) -> dict[str, dict[str, Any]]:
        """The arguments of bitsandbytes."""
        return {"bitsandbytes": quantisation.bitsandbytes_arguments() if quantisation else {}}

    def build(self, context: Context) -> Outcome:
        """Fetch the model, convert it if needed, check and describe it."""
        from alignment.models.description import (
            describe_base,
            describe_tokenizer,
            write_tokenizer,
        )

        context.progress.update("fetching", 0, 1)
        folder, uri, revision = self.source.fetch(context.workspace.out)
        stored = f"store:{self.key}/{uri[4:]}" if uri.startswith("out:") else uri
        base = describe_base(folder, stored, revision)
        if self.source.digest() + self.template.digest() != self.digest:
            raise ModelError(f"{folder} was changed since the run began; run the command again.")
        own = folder
        if self.template.changes:
            own = context.workspace.out / "tokenizer"
            write_tokenizer(folder, self.template, own)
            stored = f"store:{self.key}/tokenizer"
        tokenizer = describe_tokenizer(own, stored, date=self.template.date)
        notes = [f"base model {uri} {revision or ''}".strip()]
        if tokenizer.date:
            notes.append(f"the chat template says the date: always {tokenizer.date}")
        ref = ModelRef(base=base, tokenizer=tokenizer, quantisation=self.quantisation)
        return Outcome(output=ref, notes=tuple(notes))
