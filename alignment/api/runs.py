"""A run from Python: its configuration, its plan, the run itself, its numbers.

The same as on the command line, without Prefect: the steps run one after another, the heavy ones in
processes of their own, and what the store has is reused.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig, reference_of
from alignment.errors import UsageError
from alignment.execution.run_step import Limits, run_step, try_in_child
from alignment.execution.tracking import tracked
from alignment.pipeline.plan import Planned
from alignment.pipeline.plan import plan as plan_chain
from alignment.pipeline.steps import OpenBase
from alignment.pipeline.verdicts import chain_so_far, each_step
from alignment.records.base import Frozen
from alignment.records.manifest import StageRecord
from alignment.records.refs import ModelRef
from alignment.report.assemble import gather, write_report
from alignment.report.numbers import Numbers
from alignment.store.activity import announced
from alignment.store.places import connect
from alignment.store.runs import note_begun
from alignment.store.store import Store

logger = logging.getLogger(__name__)
COMMAND = "alignment.run(config)"


class FinishedRun(Frozen):
    """A run that has ended.

    Attributes:
        headline: the result in one sentence.
        page: the report, one HTML file.
        steps: the record of every step, by name and in order: metrics, key, parents, files.
    """

    headline: str
    page: Path
    steps: dict[str, StageRecord]


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PipelineConfig:
    """The configuration of a YAML file.

    Args:
        path: the file; relative paths in it count from the folder that the process runs in.
        overrides: values to change, as on the command line: "dpo.loss.beta=0.2".

    Raises:
        ConfigError: all mistakes at once, each with file, line, key and a suggestion.
    """
    return load(Path(path), tuple(overrides))


def plan(config: PipelineConfig) -> tuple[Planned, ...]:
    """For each step whether it would run, resume or be reused, with its key and settings."""
    store = _opened(config)
    return tuple(plan_chain(chain_so_far(config, store), store))


def run(
    config: PipelineConfig, *, on_step: Callable[[StageRecord], None] = lambda _: None
) -> FinishedRun:
    """Run everything that the store does not have, and write the report.

    Args:
        config: the run.
        on_step: called with the record of each step when it is there.

    Raises:
        AlignmentError: the one with which the command line would end. After `Interrupted`, the same
            call continues.
    """
    store, limits, name = _opened(config), Limits.of(config), reference_of(config)
    records: dict[str, StageRecord] = {}
    with announced(store, f"a run of {config.name} from Python"):
        note_begun(store, config.name, config.model_dump(mode="json"), COMMAND)
        for step in each_step(config, store):
            with tracked(
                config.trackers, run=name, store=store, step=step, warn=logger.warning
            ) as t:
                records[step.name] = run_step(store, step, on_progress=t.note, limits=limits)
                t.end(records[step.name])
            if isinstance(step, OpenBase):
                base = ModelRef.model_validate(records[step.name].output).base
                try_in_child(store, base, tuple(chain_so_far(config, store).steps()))
            on_step(records[step.name])
        chain = chain_so_far(config, store)
        files = write_report(store, chain, config=config, command=COMMAND, timings={})
    return FinishedRun(headline=files.headline, page=files.html, steps=records)


def report_of(config: PipelineConfig) -> Numbers:
    """The numbers of a run that has ended: evaluations, differences, verdicts, cost.

    Raises:
        UsageError: a step is missing.
    """
    store = _opened(config)
    chain = chain_so_far(config, store)
    missing = [step.name for step in chain.steps() if store.find(step.key) is None]
    if missing:
        raise UsageError(
            f"{config.name} has not ended: {', '.join(missing[:3])} of {len(missing)} steps are "
            f"missing in {store.root}. Run it first: {COMMAND}"
        )
    return gather(store, chain, config=config, command=COMMAND, timings=None).numbers


def _opened(config: PipelineConfig) -> Store:
    store = config.open_store()
    connect(store)
    return store
