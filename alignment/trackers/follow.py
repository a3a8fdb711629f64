"""The process of one tracker for one stage: reads events from a file and passes them on.

    python -m alignment.trackers.follow DESCRIPTOR PARENT

It exits when the stage has ended, or when the process that writes the events is gone.
"""

import os
import sys
import time
from collections.abc import Iterator

from alignment.errors import AlignmentError
from alignment.trackers.events import EVENT, StageBegun, StageEnded, StageLogged
from alignment.trackers.writers import WRITERS

POLL_SECONDS = 0.2
READ = 1 << 20


def events(descriptor: int, parent: int) -> Iterator[StageBegun | StageLogged | StageEnded]:
    """Every event in an open file as it comes, until the stage ends or its process is gone."""
    offset, rest = 0, b""
    while True:
        gone = os.getppid() != parent
        new = os.pread(descriptor, READ, offset)
        offset += len(new)
        *lines, rest = (rest + new).split(b"\n")
        yield from map(EVENT.validate_json, lines)
        if gone and not new:
            yield StageEnded(finished=False)
        if not new:
            time.sleep(POLL_SECONDS)


def follow(descriptor: int, parent: int) -> None:
    """Pass the events of a stage on to its tracker."""
    found = events(descriptor, parent)
    begun = next(found)
    assert isinstance(begun, StageBegun)
    writer, step = WRITERS[begun.tracker.name](begun.tracker, begun), 0
    for event in found:
        if isinstance(event, StageLogged):
            step = event.step
            writer.log(step, event.numbers)
        elif isinstance(event, StageEnded):
            writer.end(step, event.metrics, finished=event.finished)
            return


if __name__ == "__main__":
    code = 0
    try:
        follow(int(sys.argv[1]), int(sys.argv[2]))
    except Exception as error:  # whatever a package raises; the run reads the last line
        kind = "" if isinstance(error, AlignmentError) else f"{type(error).__name__}: "
        sys.stderr.write(f"\n{kind}{' '.join(str(error).split())}\n")
        code = 1
    sys.stderr.flush()
    os._exit(code)  # a package's threads must not keep the process
