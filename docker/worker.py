"""Starts a worker, and on shutdown lets its runs save before the worker stops.

    python docker/worker.py prefect worker start --pool gpu --type process

On SIGTERM, Prefect's process worker (observed in 3.8.8) exits within a second and kills its runs
with SIGKILL: no checkpoint is saved, and the run stays RUNNING. A signal to the worker's process
group does not help, because every run has its own session. So this program signals the runs first,
waits until they have ended, and then signals the worker. Occasionally the worker ignores that
signal. It has nothing left to save, so it is killed after `WORKER_TIMEOUT`.
"""

import signal
import sys

import psutil

GRACE = 540
"""Seconds a run has to save a checkpoint; less than `stop_grace_period` in compose.yaml."""

WORKER_TIMEOUT = 20
"""Seconds the worker has to exit after its runs have ended."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop(worker: psutil.Popen) -> None:
    """Send SIGTERM to the worker's runs, then to the worker; further signals are ignored."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    runs = worker.children()
    for run in runs:
        run.terminate()
    psutil.wait_procs(runs, timeout=GRACE)
    worker.terminate()
    signal.signal(signal.SIGALRM, lambda *_: worker.kill())
    signal.alarm(WORKER_TIMEOUT)


def main() -> int:
    """Run the worker; returns its exit code."""
    # its own session, so that Ctrl-C in the terminal reaches only this program
    worker = psutil.Popen(sys.argv[1:], start_new_session=True)
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop(worker))
    return int(worker.wait())


if __name__ == "__main__":
    sys.exit(main())
