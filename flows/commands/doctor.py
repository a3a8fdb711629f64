"""`sft-dpo doctor`: check a run before renting a GPU."""

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from alignment.config.file import load
from alignment.doctor.finding import PreflightReport
from alignment.doctor.page import write_page
from alignment.doctor.rows import examine_rows
from alignment.store.activity import announced
from flows.doctor import print_report
from flows.located import naming_the_line
from flows.printing import command_of, say
from flows.quiet import quiet_libraries
from flows.stores import configured_store


def run_doctor(config: Path, overrides: list[str], *, device: str | None, as_json: bool) -> None:
    """Check a run, write the report, print it; exit with code 1 if the run should not start."""
    settings = load(config, overrides)
    store = configured_store(settings)
    notes, command = Console(stderr=True), command_of("doctor", config, overrides)
    with naming_the_line(config, overrides), announced(store, command, make=False):
        report = _examination(device)(
            settings,
            command=command,
            on_progress=lambda step: notes.print(f"preparing {step}", highlight=False),
        )
    page = write_page(report, store.root / "reports" / f"{settings.name}-doctor.html")
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        print_report(report, Console(highlight=False, markup=False))
        say(f"page: {page}")
    if report.verdict == "fail":
        sys.exit(1)


def _examination(device: str | None) -> Callable[..., PreflightReport]:
    """All checks, or without transformers those of the rows."""
    if find_spec("transformers") is None:
        return examine_rows
    quiet_libraries()
    from alignment.doctor.examine import examine  # slow to import: torch, transformers

    return partial(examine, device=device)
