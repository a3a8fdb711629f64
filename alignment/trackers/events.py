"""What a tracker's process is told of a stage, as JSON lines: what begins, numbers, its end."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, TypeAdapter

from alignment.records.base import Frozen, Json
from alignment.trackers.settings import Tracker


class StageBegun(Frozen):
    """A stage begins.

    Attributes:
        run: the run that it belongs to, as `sft-dpo runs` names it.
        step: the readable name of the stage.
        key: the key of its artifact.
        folder: where the artifact will be.
        settings: what the stage was asked for.
        parents: the keys of the artifacts that it starts from.
        own: folder of the store for this tracker.
    """

    kind: Literal["begun"] = "begun"
    tracker: Tracker
    run: str
    step: str
    key: str
    folder: str
    settings: Json
    parents: dict[str, str]
    own: str


class StageLogged(Frozen):
    """Numbers of an optimiser step."""

    kind: Literal["logged"] = "logged"
    step: int
    numbers: dict[str, float]


class StageEnded(Frozen):
    """The stage has ended; the metrics of its record if it was finished."""

    kind: Literal["ended"] = "ended"
    finished: bool
    metrics: dict[str, float] = Field(default_factory=dict)


Event = Annotated[StageBegun | StageLogged | StageEnded, Discriminator("kind")]
EVENT: TypeAdapter[StageBegun | StageLogged | StageEnded] = TypeAdapter(Event)
