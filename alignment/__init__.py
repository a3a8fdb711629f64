"""Training, data, evaluation and artifacts; knows nothing of a scheduler.

For notebooks and scripts (docs/python.md):

    from alignment import load_config, open_model, plan, report_of, run

They are imported when they are asked for, so that importing a part of this package stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignment.api.models import open_model
    from alignment.api.runs import FinishedRun, load_config, plan, report_of, run

__all__ = ["FinishedRun", "load_config", "open_model", "plan", "report_of", "run"]
_HOMES = {
    "FinishedRun": "alignment.api.runs",
    "load_config": "alignment.api.runs",
    "open_model": "alignment.api.models",
    "plan": "alignment.api.runs",
    "report_of": "alignment.api.runs",
    "run": "alignment.api.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
