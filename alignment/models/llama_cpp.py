"""llama.cpp's own converter to GGUF, where this machine has one.

It knows the architectures of llama.cpp, over a hundred, and runs as a program of its own. What it
writes is judged like our own files (`gguf.py`): transformers reads it back, so an architecture that
transformers cannot read is refused. Not here: running llama.cpp itself.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoConfig

from alignment.errors import ModelError, UsageError, one_line

CONVERTER = "convert_hf_to_gguf.py"


def find_converter(given: Path | None) -> Path | None:
    """The converter: the one given, as a file or llama.cpp's folder, or the one on the PATH.

    Raises:
        UsageError: there is none where the user said.
    """
    if given is None:
        found = shutil.which(CONVERTER)
        return Path(found) if found else None
    file = given / CONVERTER if given.is_dir() else given
    if not file.is_file():
        raise UsageError(f"{file} does not exist; give llama.cpp's folder or its {CONVERTER}.")
    return file


def check_convertible(converter: Path, folder: Path) -> None:
    """Refuse a model before any time is spent on merging it: its tokenizer is converted alone.

    Raises:
        ModelError: llama.cpp does not know its architecture or tokenizer, or transformers could not
            read the file back.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vocabulary.gguf"
        _run(converter, folder, file, "--vocab-only")
        try:
            AutoConfig.from_pretrained(scratch, gguf_file=file.name, trust_remote_code=False)
        except ValueError as error:
            raise ModelError(
                "cannot write this model as GGUF: transformers could not read the file back, so "
                f"nobody would know what it computes ({one_line(error)}). Export it with --form "
                f"merged and run {converter.name} yourself."
            ) from error


def convert(converter: Path, folder: Path, file: Path) -> None:
    """Write the model and tokenizer of a folder as one GGUF file in float32.

    Raises:
        ModelError: llama.cpp cannot convert it.
    """
    _run(converter, folder, file, "--outtype", "f32")


def _run(converter: Path, folder: Path, file: Path, *options: str) -> None:
    command = [sys.executable, str(converter), str(folder), "--outfile", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ModelError(
            f"cannot write this model as GGUF: {converter} says: {' '.join(last) or 'nothing'}. "
            "Export it with --form merged."
        )
