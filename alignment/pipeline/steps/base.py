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
        return _opened(self, context, self.template, quantisation=self.quantisation)


class OpenWeak(Step):
    """Make a weaker model available, whose answers are rejected; nothing is trained on it.

    Not an `OpenBase`: among a model's ancestors there is one of these, its base.
    """

    stage: Literal["weak"] = "weak"
    title = "open weaker model"
    produces = ModelRef
    nominal_seconds = 24.0
    source: ModelSource
    digest: str

    def build(self, context: Context) -> Outcome:
        """Fetch the model, convert it if needed, check and describe it."""
        return _opened(self, context, ModelTemplate(), quantisation=None)


def _opened(
    step: OpenBase | OpenWeak,
    context: Context,
    template: Template,
    *,
    quantisation: Quantisation | None,
) -> Outcome:
    from alignment.models.description import (
        describe_base,
        describe_tokenizer,
        write_tokenizer,
    )

    context.progress.update("fetching", 0, 1)
    folder, uri, revision = step.source.fetch(context.workspace.out)
    stored = f"store:{step.key}/{uri[4:]}" if uri.startswith("out:") else uri
    base = describe_base(folder, stored, revision)
    if step.source.digest() + template.digest() != step.digest:
        raise ModelError(f"{folder} was changed since the run began; run the command again.")
    own = folder
    if template.changes:
        own = context.workspace.out / "tokenizer"
        write_tokenizer(folder, template, own)
        stored = f"store:{step.key}/tokenizer"
    tokenizer = describe_tokenizer(own, stored, date=template.date)
    notes = [f"base model {uri} {revision or ''}".strip()]
    if tokenizer.date:
        notes.append(f"the chat template says the date: always {tokenizer.date}")
    ref = ModelRef(base=base, tokenizer=tokenizer, quantisation=quantisation)
    return Outcome(output=ref, notes=tuple(notes))
