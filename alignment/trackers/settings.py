"""The trackers that a configuration may name: where each keeps what it gets.

None is part of a key. Tokens and passwords come from the environment variables that the packages
read themselves (WANDB_API_KEY, MLFLOW_TRACKING_TOKEN).
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field

from alignment.records.base import Frozen
from alignment.urls import bare_urls


def _without_secret(uri: str) -> str:
    """Refuse what would be written into every report of the run's config."""
    if bare_urls(uri) != uri:
        raise ValueError(
            "holds a user, a password or a query. MLflow reads MLFLOW_TRACKING_USERNAME, "
            "MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN"
        )
    return uri


class TrackerSettings(Frozen):
    """What all trackers have in common. Abstract."""

    name: str
    module: ClassVar[str]
    """The package that it needs; the extra has the tracker's name."""


class TensorBoard(TrackerSettings):
    """Event files, which `tensorboard --logdir FOLDER` shows."""

    name: Literal["tensorboard"] = "tensorboard"
    module = "tensorboard"
    folder: Path | None = Field(
        default=None, description="Folder of the event files; null: STORE/trackers/tensorboard."
    )


class MLflow(TrackerSettings):
    """A server of MLflow, or a database file."""

    name: Literal["mlflow"] = "mlflow"
    module = "mlflow"
    uri: Annotated[str, AfterValidator(_without_secret)] = Field(
        description="Tracking URI: http://127.0.0.1:5000, or sqlite:///mlflow.db."
    )
    experiment: str = Field(default="sft-dpo", description="Name of the experiment.")


class Wandb(TrackerSettings):
    """Weights & Biases."""

    name: Literal["wandb"] = "wandb"
    module = "wandb"
    mode: Literal["offline", "online"] = Field(
        default="offline",
        description="offline: files in STORE/trackers/wandb, which `wandb sync` uploads; online: "
        "upload at once.",
    )
    project: str = Field(default="sft-dpo", description="Name of the project.")
    entity: str | None = Field(default=None, description="Team or user; null: the token's.")


class Trackio(TrackerSettings):
    """Trackio, which keeps a database on this machine."""

    name: Literal["trackio"] = "trackio"
    module = "trackio"
    project: str = Field(default="sft-dpo", description="Name of the project.")


Tracker = Annotated[TensorBoard | MLflow | Wandb | Trackio, Discriminator("name")]
