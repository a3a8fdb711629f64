"""A model folder as written by `save_pretrained`: its files, and whether they are intact.

Not here: where a folder comes from (`sources.py`), its tensors (`weight_files.py`).
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from alignment.errors import ModelError
from alignment.models.header import read_header
from alignment.records.base import digest_of
from alignment.store.checksum import file_sha256
from alignment.urls import is_url

REMEDY = "Fetch or export it again."
RELATIVE = "a relative path starts at the current directory"
TOKENIZER_FILES = ("tokenizer*", "*.jinja", "vocab*", "merges.txt", "special_tokens_map.json")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted."""
    return sorted(folder.glob("*.safetensors"))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that determine how a tokenizer encodes text, sorted."""
    return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})


def check_weights(folder: Path) -> None:
    """Refuse a folder without config, without safetensors, or with a damaged one.

    Raises:
        ModelError: names the file and the remedy.
    """
    if is_url(str(folder)):  # not repeated: it may hold a secret
        raise ModelError("a model folder is a local one, not a URL; fetch the model first.")
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} does not exist. Check the path; {RELATIVE}.")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: it is not a model folder. Check the path.")
    files = weight_files(folder)
    if not files:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = (
            f" (found {pickled[0]}: pickled weights are refused; convert them)" if pickled else ""
        )
        raise ModelError(f"{folder} has no *.safetensors weights{hint}: a run needs them.")
    for file in files:
        read_header(file, remedy=REMEDY)


def stored_dtype(folder: Path) -> str:
    """The dtype of the largest tensor in a folder's first weight file, by torch's name."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    tensors = read_header(weight_files(folder)[0], remedy=REMEDY)
    largest = max(tensors.values(), key=lambda tensor: tensor.elements)
    return names.get(largest.dtype, largest.dtype)


def digest_of_files(files: Iterable[Path]) -> str:
    """The digest of some files' names and contents, as references to models hold it."""
    return digest_of([(file.name, known_sha256(file)) for file in files])


def known_sha256(file: Path) -> str:
    """A file's digest, cached per process for as long as its size and mtime stay the same.

    A 7B model has 15 GB, and one command builds its chain, which needs the digest, up to three
    times.
    """
    state = file.stat()
    return _sha256_at(file.absolute(), state.st_size, state.st_mtime_ns)


@cache
def _sha256_at(file: Path, _size: int, _mtime_ns: int) -> str:
    return file_sha256(file)
