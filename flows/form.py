"""The fields of the flows' forms in the browser: titles, presets to choose from, what is refused.

A server holds what is submitted against these before a run exists, and names the field that is
wrong. Their help texts are the flows' docstrings. Not here: what is in a config
(`alignment.config.pipeline`), which is checked when the run begins.
"""

from typing import Annotated, Any

from pydantic import Field

Config = Annotated[str, Field(pattern=r"^(practice|hh|a100)$|/|\.")]
"""A preset's bare name, or the path of a file: anything with a slash or an ending. One text in one
box: where a form offers two kinds of text, the browser takes them for each other."""
Change = Annotated[str, Field(title="Change", pattern=r"^[a-z][a-z0-9_.]*=")]
Rounds = Annotated[int, Field(ge=1, le=99)]
Model = (
    Annotated[str, Field(title="Name", min_length=1)]
    | Annotated[None, Field(title="The one that waits")]
)
Hours = Annotated[float, Field(gt=0, le=2160)]


def form_field(title: str, default: Any) -> Any:
    """A parameter's default that gives its field a title; Prefect would show its bare name."""
    return Field(default, json_schema_extra={"title": title})
