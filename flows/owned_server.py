"""`python -m flows.owned_server`: uvicorn, in a process that ends with the process that started it.

The owner holds the other end of the standard input, and writes to it when the server is to stop.
When it dies, however it dies, the system closes that end. Signals are blocked: a terminal,
`timeout` and service managers send them to the whole group, and the owner has last requests.
"""

import os
import runpy
import signal
import threading


def _end_with_owner() -> None:
    asked = os.read(0, 1)  # not `sys.stdin`, whose lock a thread must not hold at exit
    if not asked:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # for this thread
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_owner, daemon=True).start()
    runpy.run_module("uvicorn", run_name="__main__")
