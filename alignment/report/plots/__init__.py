"""The figures of a report: functions that take records and return a matplotlib `Figure`."""

from alignment.report.plots.models import margins, model_estimates, reply_lengths
from alignment.report.plots.pairs import margin_by_length, reliability
from alignment.report.plots.tasks import task_heat_map
from alignment.report.plots.trail import since_anchor
from alignment.report.plots.training import History, training_curves

__all__ = [
    "History",
    "margin_by_length",
    "margins",
    "model_estimates",
    "reliability",
    "reply_lengths",
    "since_anchor",
    "task_heat_map",
    "training_curves",
]
