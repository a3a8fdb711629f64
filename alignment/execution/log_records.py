"""Log records whose messages are safe to show on a terminal."""

import logging

from alignment.errors import printable


class PrintableRecord(logging.LogRecord):
    """A record in whose message characters are shown that a terminal would obey."""

    def getMessage(self) -> str:
        """The message, with the names and texts of others in it escaped."""
        return printable(super().getMessage())


def make_records_printable() -> None:
    """Use such records in all logs of this process."""
    logging.setLogRecordFactory(PrintableRecord)
