"""What a run's page is told of an error that this package understands: one line, no traceback.

The page has that line as the run's final state. Prefect's engine raises the state's error once more
when its process ends, and logs it as unexpected.
"""

import logging

from alignment.errors import AlignmentError

LOGGER = "prefect.flow_runs"


class KnownErrorFilter(logging.Filter):
    """In place of a known error's traceback, its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change such a record; every record passes."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, AlignmentError):
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
            record.exc_info = record.exc_text = None
        return True


def tell_known_errors_in_one_line() -> None:
    """Have the logs of this process's runs do so."""
    logging.getLogger(LOGGER).addFilter(KnownErrorFilter())
