"""A fork server whose imports open a GPU, for which /dev/zero stands; its child says so."""

import os
import sys

from alignment.execution import forkserver

forkserver.GPU_FILES = ("/dev/zero",)
forkserver.preload = lambda: globals().update(opened=os.open("/dev/zero", os.O_RDONLY))

if __name__ == "__main__":
    forkserver.serve(int(sys.argv[1]), *sys.argv[2:])
    sys.stdout.write(f"{sys.argv[2:]} {forkserver.open_gpus()}")
