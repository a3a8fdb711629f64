"""Logs errors that this package understands as one line, without a traceback.

The run page already shows that line as the final state. Prefect's engine raises the error again
when the process ends, and would log it as unexpected, with a traceback.
"""

import logging

from alignment.errors import AlignmentError
from alignment.execution.log_records import make_records_printable

LOGGER = "prefect.flow_runs"


class KnownErrorFilter(logging.Filter):
    """Replaces the traceback of a known error with its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite records of known errors; let every record pass."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, AlignmentError):
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
            record.exc_info = record.exc_text = None
        return True


def log_known_errors_in_one_line() -> None:
    """Install the filter for the flow runs of this process, and escape what is logged."""
    make_records_printable()
    logging.getLogger(LOGGER).addFilter(KnownErrorFilter())
