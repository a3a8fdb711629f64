"""Each tracker's own calls: a run for a stage, grouped under its pipeline run, linked by its key.

Metrics have the same names in all of them. Each package is imported in the process that uses it.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from alignment.extras import require
from alignment.store.runs import leaves
from alignment.trackers.events import StageBegun
from alignment.trackers.settings import MLflow, TensorBoard, Trackio, Wandb

KEY, RUN = "sft-dpo.key", "sft-dpo.run"
LONGEST_PARAMETER, MOST_PARAMETERS = 500, 100
"""MLflow refuses longer ones, and more at once."""


class TrackerWriter(ABC):
    """Writes one stage into one tracker. Built when the stage begins."""

    @abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of an optimiser step."""

    @abstractmethod
    def end(self, step: int, metrics: Mapping[str, float], *, finished: bool) -> None:
        """The stage has ended after a step, with these metrics."""


class TensorBoardWriter(TrackerWriter):
    """Event files in FOLDER/RUN/STAGE, and their artifact as a text."""

    def __init__(self, settings: TensorBoard, begun: StageBegun) -> None:
        files = require("tensorboard.summary.writer.event_file_writer", extra=settings.name)
        self._summary = require("tensorboard.compat.proto.summary_pb2", extra=settings.name)
        self._event = require("tensorboard.compat.proto.event_pb2", extra=settings.name).Event
        folder = settings.folder or Path(begun.own)
        self._writer = files.EventFileWriter(str(folder / begun.run / begun.step))
        asked = json.dumps(begun.settings, indent=1, ensure_ascii=False)
        self._text("artifact", f"{begun.key} in {begun.folder}")
        self._text("settings", f"```\n{asked}\n```")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """A point of each curve."""
        values = [self._summary.Summary.Value(tag=n, simple_value=v) for n, v in numbers.items()]
        self._add(step, values)

    def end(self, step: int, metrics: Mapping[str, float], *, finished: bool) -> None:
        """The metrics at the last step."""
        self.log(step, metrics)
        self._text("state", "finished" if finished else "not finished")
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        metadata = require("tensorboard.plugins.text.metadata", extra="tensorboard")
        tensors = require("tensorboard.util.tensor_util", extra="tensorboard")
        value = self._summary.Summary.Value(
            tag=tag,
            metadata=metadata.create_summary_metadata(display_name=tag, description=""),
            tensor=tensors.make_tensor_proto(text),
        )
        self._add(0, [value])

    def _add(self, step: int, values: list[Any]) -> None:
        summary = self._summary.Summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))


class MLflowWriter(TrackerWriter):
    """A run nested under that of the pipeline; a stage that is continued continues its run."""

    def __init__(self, settings: MLflow, begun: StageBegun) -> None:
        tracking = require("mlflow.tracking", extra=settings.name)
        self._entities = require("mlflow.entities", extra=settings.name)
        self._client = tracking.MlflowClient(tracking_uri=settings.uri)
        found = self._client.get_experiment_by_name(settings.experiment)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(settings.experiment)
        )
        self._parent = self._run(begun.run, {RUN: begun.run, KEY: begun.run})
        links = {"sft-dpo.folder": begun.folder, "mlflow.parentRunId": self._parent}
        self._id = self._run(begun.step, {RUN: begun.run, KEY: begun.key, **links})
        asked = iter(leaves(begun.settings))
        while some := list(islice(asked, MOST_PARAMETERS)):
            parameters = [self._entities.Param(n, str(v)[:LONGEST_PARAMETER]) for n, v in some]
            self._client.log_batch(self._id, params=parameters)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """One call for all numbers of a step."""
        now = round(time.time() * 1000)
        metrics = [self._entities.Metric(n, value, now, step) for n, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, step: int, metrics: Mapping[str, float], *, finished: bool) -> None:
        """The metrics at the last step, and the state of this run and of its parent."""
        self.log(step, metrics)
        for run in (self._id, self._parent):
            self._client.set_terminated(run, status="FINISHED" if finished else "FAILED")

    def _run(self, name: str, tags: dict[str, str]) -> str:
        wanted = " and ".join(f"tags.`{tag}` = '{tags[tag]}'" for tag in (RUN, KEY))
        for found in self._client.search_runs([self._experiment], wanted, max_results=1):
            self._client.update_run(found.info.run_id, status="RUNNING")
            return str(found.info.run_id)
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)


class WandbWriter(TrackerWriter):
    """A run of the group of the pipeline run; nothing but our numbers and settings is sent."""

    def __init__(self, settings: Wandb, begun: StageBegun) -> None:
        wandb = require("wandb", extra=settings.name)
        Path(begun.own).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            mode=settings.mode,
            dir=begun.own,
            id=begun.key,
            resume="allow",
            name=begun.step,
            group=begun.run,
            job_type=begun.step.rstrip("-0123456789"),
            config=_described(begun),
            settings=wandb.Settings(
                console="off", disable_git=True, save_code=False, x_disable_stats=True
            ),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """A point of each curve."""
        self._run.log(dict(numbers), step=step)

    def end(self, step: int, metrics: Mapping[str, float], *, finished: bool) -> None:
        """The metrics in the run's summary."""
        del step
        self._run.summary.update(dict(metrics))
        self._run.finish(exit_code=0 if finished else 1)


class TrackioWriter(TrackerWriter):
    """A run of the group of the pipeline run, in Trackio's own folder."""

    def __init__(self, settings: Trackio, begun: StageBegun) -> None:
        trackio = require("trackio", extra=settings.name)
        self._run = trackio.init(
            project=settings.project,
            name=f"{begun.run}/{begun.step}",
            group=begun.run,
            config=_described(begun),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._finish = trackio.finish

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """A point of each curve."""
        self._run.log(dict(numbers), step=step)

    def end(self, step: int, metrics: Mapping[str, float], *, finished: bool) -> None:
        """The metrics at the last step."""
        self._run.log({**metrics, "finished": float(finished)}, step=step)
        self._finish()


def _described(begun: StageBegun) -> dict[str, Any]:
    links = {"artifact": begun.key, "folder": begun.folder, "parents": begun.parents}
    return {**begun.settings, **links}


WRITERS: Mapping[str, Callable[[Any, StageBegun], TrackerWriter]] = {
    "tensorboard": TensorBoardWriter,
    "mlflow": MLflowWriter,
    "wandb": WandbWriter,
    "trackio": TrackioWriter,
}
