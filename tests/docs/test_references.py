"""Files that docstrings and documents name exist under that name."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOUSE = ("alignment", "tasks", "flows", "deployments", "docker", "benchmarks", "tests")
NAMED = re.compile(r"`([\w./]+\.py)\b")
OTHERS = ROOT / "docs" / "comparison.md"
"""Names files of other projects."""
GONE_OR_REFUSED = {
    "docker/prove.py",  # a decision note tells why it was dropped
    "utils.py",  # CONTRIBUTING: there is none
    "convert_hf_to_gguf.py",  # a program of llama.cpp
}


def test_every_python_file_that_is_named_exists():
    files = {f"/{path.relative_to(ROOT)}" for name in HOUSE for path in (ROOT / name).rglob("*.py")}
    documents = {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {OTHERS}
    sources = [ROOT / file[1:] for file in files]
    wrong = [
        f"{path.relative_to(ROOT)}: {named}"
        for path in sorted({*documents, *sources})
        for named in NAMED.findall(path.read_text(encoding="utf-8"))
        if named not in GONE_OR_REFUSED and not any(file.endswith(f"/{named}") for file in files)
    ]
    assert not wrong, "\n".join(wrong)
