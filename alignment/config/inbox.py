"""Settings of an inbox: where batches arrive, and what a round makes of them."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from alignment.data.formats import Auto, Format
from alignment.data.read.files import Place
from alignment.data.read.sources import FileSource
from alignment.records import Frozen


class GatePromotes(Frozen):
    """A round that passes the gate is the champion at once."""

    name: Literal["gate"] = "gate"


class PersonPromotes(Frozen):
    """A round that passes the gate waits for a person; no other round begins meanwhile."""

    name: Literal["person"] = "person"


Promotion = Annotated[GatePromotes | PersonPromotes, Field(discriminator="name")]


class InboxConfig(Frozen):
    """Where new preference pairs arrive, and what a round makes of them."""

    path: Place = Field(
        default="inbox",
        min_length=1,
        description="A folder, or a URL that fsspec opens; searched downwards.",
    )
    line: str = Field(
        default="main",
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="Name of the line of rounds: its champion and its ledger in the store.",
    )
    format: Format = Field(
        default=Auto(), description="What the columns mean; told by the columns when absent."
    )
    task_type: str = Field(
        default="general",
        min_length=1,
        description="What the pairs practise, for rows without a column task_type.",
    )
    settle_seconds: NonNegativeFloat = Field(
        default=60.0, description="Seconds without a change before a file counts as whole."
    )
    min_new_pairs: PositiveInt = Field(
        default=100,
        description="Fewer usable new pairs wait for the next batch; no round is trained.",
    )
    replay_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a round's pairs that are taken from the rounds before, 0 to 1.",
    )
    max_malformed_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of a batch's rows that may be unreadable, 0 to 1; a batch with more is "
        "refused, the others go on.",
    )
    promotion: Promotion = Field(
        default=GatePromotes(), description="Who makes a round that passes the gate the champion."
    )

    def source(self, path: str) -> FileSource:
        """A batch as the data code reads it."""
        return FileSource(path=path, format=self.format, task_type=self.task_type)
