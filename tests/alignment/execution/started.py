"""What children in `tests.alignment.execution.test_forkserver` do, chosen by the first argument."""

import importlib.util
import os
import sys
import time
from pathlib import Path

from alignment.execution.forkserver import serve

if __name__ == "__main__":
    action, *arguments = serve(int(sys.argv[1]), *sys.argv[2:])
    if action == "say":
        sys.stdout.write(f"{arguments[0]} {Path.cwd()} {os.environ.get('COLOUR')}\n")
        sys.stderr.write("aside\n")
    if action == "gpus":
        sys.stdout.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\n")
    if action == "loaded":
        sys.stdout.write(str([name in sys.modules for name in arguments]))
    if action == "finds":
        sys.stdout.write(str(importlib.util.find_spec(arguments[0])))
    if action == "sleep":
        time.sleep(60)
    if action == "exit":
        sys.exit(int(arguments[0]))
