import json
import os
import subprocess
import sys
from pathlib import Path

from alignment.execution.run_step import DEFAULTS, KEEP_FREED_MEMORY

DEFAULT_VALUES = {default.name: default.value for default in DEFAULTS}
ROOT = Path(__file__).parents[2]
PROBE = """
import json, os, sys
from benchmarks.like_a_step import restart_like_a_step
restart_like_a_step("probe")
print(json.dumps([sys.argv[1:], dict(os.environ)]))
"""


def test_a_benchmark_starts_again_with_what_torch_and_malloc_read_when_they_are_loaded(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_TOP_PAD_": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "probe", "--model", "7b"],
        env={k: v for k, v in environment.items() if k not in DEFAULT_VALUES},
        capture_output=True,
        text=True,
        check=True,
    )
    arguments, found = json.loads(done.stdout)
    assert arguments == ["--model", "7b"]
    assert found == found | DEFAULT_VALUES
    assert found == found | {**KEEP_FREED_MEMORY, "MALLOC_TOP_PAD_": "1"}, "the user's own wins"
