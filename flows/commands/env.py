"""`sft-dpo env`: what a report of a problem needs to say about this machine, without secrets."""

import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

from alignment.execution.device import device_facts, machine_line
from alignment.execution.provenance import code_version, libraries
from flows.presets import PRESETS
from flows.printing import say

FOLDERS = ("HF_HOME", "PREFECT_HOME", "TMPDIR", "XDG_CACHE_HOME")
"""Variables that name a folder; their values are shown."""
SWITCHES = ("HF_HUB_OFFLINE", "HF_TOKEN", "PREFECT_API_URL", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
"""Variables of which only is said that they are set, since some hold a secret."""


def show_environment(*, as_json: bool) -> None:
    """Print versions, device, driver, memory, disk and paths."""
    found = environment()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        say(f"{name:<16} {value}")


def environment() -> dict[str, str]:
    """The facts, by name."""
    return {
        "sft-dpo": f"{version('sft-dpo')} ({_revision()})",
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "machine": machine_line(device_facts()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free in the working folder",
        **libraries(),
        "installed in": str(PRESETS.parents[1]),
        "working folder": str(Path.cwd()),
        **{name: os.environ[name] for name in FOLDERS if name in os.environ},
        "set, not shown": ", ".join(name for name in SWITCHES if name in os.environ) or "nothing",
    }


def _revision() -> str:
    code = code_version()
    return code.revision[:12] + (" with uncommitted changes" if code.diff_sha256 else "")
