"""Settings of an inbox: where batches arrive, and how a round uses them."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from alignment.answers.interpreter import engine_obstacle
from alignment.candidates.settings import InboxAnswers
from alignment.data.formats import Auto, Format
from alignment.data.read.files import DataFolder
from alignment.data.read.sources import FileSource
from alignment.records.base import Frozen


class GatePromotes(Frozen):
    """A round that passes the gate becomes the champion immediately."""

    name: Literal["gate"] = "gate"


class PersonPromotes(Frozen):
    """A round that passes the gate waits for approval; no other round starts meanwhile."""

    name: Literal["person"] = "person"


Promotion = Annotated[GatePromotes | PersonPromotes, Field(discriminator="name")]


class InboxConfig(Frozen):
    """Where new preference pairs arrive, and how a round uses them."""

    path: DataFolder = Field(
        default="inbox",
        min_length=1,
        description="A folder, or a URL that fsspec can open; searched recursively.",
    )
    line: str = Field(
        default="main",
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="Name of the line of rounds; each line has its own champion and ledger.",
    )
    format: Format = Field(
        default=Auto(), description="Meaning of the columns; detected from their names if not set."
    )
    task_type: str = Field(
        default="general",
        min_length=1,
        description="Task type of rows that have no column task_type.",
    )
    settle_seconds: NonNegativeFloat = Field(
        default=60.0, description="Seconds a file must be unchanged before it counts as complete."
    )
    min_new_pairs: PositiveInt = Field(
        default=100,
        description="Minimum number of usable new pairs; with fewer, they wait for the next batch.",
    )
    replay_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a round's pairs that are replayed from earlier rounds, 0 to 1.",
    )
    max_malformed_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Maximum share of unreadable rows in a batch, 0 to 1; a batch with more is "
        "refused, and the round uses the others.",
    )
    max_failures: PositiveInt = Field(
        default=3,
        description="Number of equal failures of a round after which its batches are set aside and "
        "the line goes on without them.",
    )
    answers: InboxAnswers | None = Field(
        default=None,
        description="What to do with files of prompts, whose names have `.prompts.` in them, as "
        "monday.prompts.jsonl has; null: they are left alone.",
    )
    promotion: Promotion = Field(
        default=GatePromotes(), description="Who promotes a round that passes the gate to champion."
    )

    @property
    def foreseen(self) -> tuple[str, ...]:
        """That this machine cannot run the engine that answers prompts, if so."""
        obstacle = engine_obstacle(self.answers.engine) if self.answers else None
        return (f"inbox.answers.{obstacle}",) if obstacle else ()

    def source(self, path: str, *, prompts: bool = False) -> FileSource:
        """The data source that reads one batch, of pairs or of prompts."""
        format_ = self.format_of(prompts=prompts)
        return FileSource(path=path, format=format_, task_type=self.task_type)

    def format_of(self, *, prompts: bool) -> Format:
        """The format of batches of pairs, or of those of prompts."""
        return self.answers.format if prompts and self.answers else self.format
