"""What a child of `tests.alignment.execution.test_forkserver` does: the first argument says it."""

import os
import sys
import time
from pathlib import Path

from alignment.execution.forkserver import serve

if __name__ == "__main__":
    what, *words = serve(int(sys.argv[1]))
    if what == "say":
        sys.stdout.write(f"{words[0]} {Path.cwd()} {os.environ['COLOUR']}\n")
        sys.stderr.write("aside\n")
    if what == "loaded":
        sys.stdout.write(str("trl.trainer.dpo_trainer" in sys.modules))
    if what == "sleep":
        time.sleep(60)
    if what == "exit":
        sys.exit(int(words[0]))
