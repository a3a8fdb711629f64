"""`python -m flows.owned_server`: uvicorn, in a process that ends with the process that started it.

The owner holds the other end of the standard input and writes nothing. When it dies, however it
dies, the system closes that end.
"""

import os
import runpy
import threading


def _end_with_owner() -> None:
    os.read(0, 1)  # not `sys.stdin`, whose lock a thread must not hold at exit
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_owner, daemon=True).start()
    runpy.run_module("uvicorn", run_name="__main__")
