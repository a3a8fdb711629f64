"""`sft-dpo doctor`: a run checked before a GPU is rented."""

import sys
from pathlib import Path

from rich.console import Console

from alignment.config.file import load
from flows.doctor import print_checkup
from flows.printing import command_of


def run_doctor(config: Path, overrides: list[str], *, device: str | None, as_json: bool) -> None:
    """Check a run, write the page, print the verdict; exit code 1 where it should not start."""
    settings = load(config, overrides)
    from alignment.doctor.examine import examine  # heavy, and the config may be wrong
    from alignment.doctor.page import write_page

    notes = Console(stderr=True)
    checkup = examine(
        settings,
        device=device,
        command=command_of("doctor", config, overrides),
        on_progress=lambda step: notes.print(f"preparing {step}", highlight=False),
    )
    page = write_page(checkup, settings.store / "reports" / f"{settings.name}-doctor.html")
    if as_json:
        print(checkup.model_dump_json(indent=2))
    else:
        print_checkup(checkup, Console(highlight=False, markup=False))
        print(f"page: {page}")
    if checkup.verdict == "fail":
        sys.exit(1)
