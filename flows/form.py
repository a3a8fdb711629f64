"""The fields of the flows' forms in the browser: their titles and the values they accept.

The server validates a submitted form against these before it creates a run, and names the field
that is wrong. The help texts are the flows' docstrings. Not here: the content of a config
(`alignment.config.pipeline`), which is checked when the run starts.
"""

from typing import Annotated, Any

from pydantic import Field

Config = Annotated[str, Field(pattern=r"^(practice|hh|a100|a100-stack)$|/|\.")]
"""The name of a preset, or the path of a file: anything with a slash or a dot. This is one string
field because Prefect's form confuses two alternatives that are both strings."""
NO_SECRET = r"(?:[^?#@]*(?:\?\$\{\w+\})?|/?(?:[^/]/?)*)$"
"""Values in which no URL has a user, query or fragment: they have no `?`, `#`, `@`, or no `//`."""
Change = Annotated[
    str,
    Field(
        title="Change",
        pattern=r"^[a-z][a-z0-9_.]*=",
        json_schema_extra={"pattern": rf"^[a-z][a-z0-9_.]*={NO_SECRET}"},
    ),
]
"""A change of the config. The server stores what is submitted, so it refuses what may be a secret;
the config itself says so in better words, but reads the value only when the run starts."""
PromptFile = Annotated[str, Field(title="File", pattern=r"^([^:]|:[^/]|:/[^/])*$")]
"""The path of a file; no URL."""
Rounds = Annotated[int, Field(ge=1, le=99)]
Model = (
    Annotated[str, Field(title="Name", min_length=1)]
    | Annotated[None, Field(title="The round waiting for approval")]
)
Hours = Annotated[float, Field(gt=0, le=2160)]


def form_field(title: str, default: Any) -> Any:
    """A parameter default with a title for its form field, in place of the parameter's name."""
    return Field(default, json_schema_extra={"title": title})
