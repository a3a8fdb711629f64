"""Starts a worker, and lets its runs save before it stops.

    python docker/worker.py prefect worker start --pool gpu --type process

On SIGTERM Prefect's process worker (seen in 3.8.8) is gone within a second and takes its runs with
it by SIGKILL: no checkpoint, and the run stays RUNNING. A signal to the worker's process group does
not help, as every run leads a session of its own. So this program tells the runs first, waits until
they have ended, and then tells the worker. Now and then the worker loses that word and stays: it
has nothing left to save, so it is killed after `PATIENCE`.
"""

import signal
import sys

import psutil

GRACE = 540
"""Seconds a run has for its checkpoint; below `stop_grace_period` in compose.yaml."""

PATIENCE = 20
"""Seconds the worker has to leave once its runs have ended."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop(worker: psutil.Popen) -> None:
    """SIGTERM to the worker's runs, then to the worker; further signals change nothing."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    runs = worker.children()
    for run in runs:
        run.terminate()
    psutil.wait_procs(runs, timeout=GRACE)
    worker.terminate()
    signal.signal(signal.SIGALRM, lambda *_: worker.kill())
    signal.alarm(PATIENCE)


def main() -> int:
    """The worker's own exit code."""
    # a session of its own: the terminal's Ctrl-C reaches this program alone
    worker = psutil.Popen(sys.argv[1:], start_new_session=True)
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop(worker))
    return int(worker.wait())


if __name__ == "__main__":
    sys.exit(main())
