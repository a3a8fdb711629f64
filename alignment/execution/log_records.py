"""Log records that are safe to show: on a terminal, and to everyone who may read a log."""

import logging
import traceback
from typing import Any

from alignment.errors import printable
from alignment.urls import bare_urls


class PrintableRecord(logging.LogRecord):
    """A record in whose message and traceback characters are shown that a terminal would obey.

    URLs are shown without user, query and fragment.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            lines = traceback.format_exception(*self.exc_info)
            self.exc_text = _shown("".join(lines).rstrip("\n"))  # formatters take it as it is

    def getMessage(self) -> str:
        """The message, with the names and texts of others in it escaped."""
        return _shown(super().getMessage())


def make_records_printable() -> None:
    """Use such records in all logs of this process."""
    logging.setLogRecordFactory(PrintableRecord)


def _shown(text: str) -> str:
    return printable(bare_urls(text))
