"""The fields of the flows' forms in the browser: their titles and the values they accept.

The server validates a submitted form against these before it creates a run, and names the field
that is wrong. The help texts are the flows' docstrings. Not here: the content of a config
(`alignment.config.pipeline`), which is checked when the run starts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from flows.presets import find_config

Preset = Literal["practice", "hh", "a100", "a100-stack"]
"""The configurations that come with the project, as choices."""
Config = Annotated[str, Field(pattern=r"^(practice|hh|a100|a100-stack)?$|/|\.")]
"""The path of a file: anything with a slash or a dot; or nothing, where a preset is meant. These
are two fields because Prefect's form confuses two alternatives that are both strings; whoever
starts a run by a command may give the name of a preset here as well."""
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
Rate = Annotated[float, Field(title="Value", gt=0)]
Count = Annotated[int, Field(title="Value", ge=1)]
AsConfigured = Annotated[None, Field(title="As configured")]
Model = (
    Annotated[str, Field(title="Name", min_length=1)]
    | Annotated[None, Field(title="The round waiting for approval")]
)
Hours = Annotated[float, Field(gt=0, le=2160)]


def form_field(title: str, default: Any) -> Any:
    """A parameter default with a title for its form field, in place of the parameter's name."""
    return Field(default, json_schema_extra={"title": title})


def chosen(preset: str, config: str) -> Path:
    """The configuration that a form names: a file, or else a preset."""
    return find_config(config or preset)


def changes(**values: float | None) -> Iterator[str]:
    """What fields of the form change, as one would write it after --set; None changes nothing."""
    for name, value in values.items():
        if value is not None:
            yield f"{KEYS[name]}={value!r}"


KEYS = {
    "learning_rate": "dpo.learning_rate",
    "beta": "dpo.loss.beta",
    "epochs": "dpo.epochs",
    "prompts": "evaluation.prompts",
}
"""The keys of a config that have a field of their own in the form."""
