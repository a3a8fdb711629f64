"""A model folder as `save_pretrained` writes it: its files, and whether they are whole.

Not here: where a folder comes from (`sources.py`), its tensors (`weight_files.py`).
"""

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from alignment.errors import ModelError

TOKENIZER_FILES = ("tokenizer*", "*.jinja", "vocab*", "merges.txt", "special_tokens_map.json")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted."""
    return sorted(folder.glob("*.safetensors"))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide how a tokenizer reads text, sorted."""
    return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})


def check_weights(folder: Path) -> None:
    """Refuse a folder without config, without safetensors, or with a damaged one.

    Opening a safetensors file checks that its header is whole and that the tensors it names
    fill the file to the last byte.

    Raises:
        ModelError: saying which file, and what to do.
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}. Check the path.")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: it is not a model folder.")
    files = weight_files(folder)
    if not files:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" (found {pickled[0]}: pickles are refused; convert it)" if pickled else ""
        raise ModelError(f"{folder} has no *.safetensors weights{hint}.")
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ModelError(
                f"{file} is damaged ({one_line(error)}). Fetch or export it again."
            ) from error


def stored_dtype(folder: Path) -> str:
    """The element type of the largest tensor of a folder, in torch's words."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    with safe_open(weight_files(folder)[0], framework="numpy") as tensors:
        slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118 (not a dict)
        largest = max(slices, key=lambda part: math.prod(part.get_shape()))
        return names.get(largest.get_dtype(), str(largest.get_dtype()))


def one_line(error: BaseException) -> str:
    """The message of an error, without its line breaks and not too long."""
    return " ".join(str(error).split())[:200]
