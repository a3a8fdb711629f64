"""The header of a safetensors file: which tensors it holds, without reading them.

Not left to `safetensors.safe_open`, which loads numpy to look at a header: that was a fifth of
the time of `sft-dpo plan`. Tensors themselves are read by the library.
"""

import json
import math
from pathlib import Path

from pydantic import TypeAdapter

from alignment.errors import ModelError, one_line
from alignment.records.base import Frozen

METADATA = "__metadata__"
LENGTH_BYTES = 8
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Bits of one number, by the format's name of its dtype."""


class StoredTensor(Frozen):
    """One tensor of a file.

    Attributes:
        dtype: as the format names it, such as "BF16".
        data_offsets: its first byte, and the one after its last, counted from the header's end.
    """

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


TENSORS = TypeAdapter(dict[str, StoredTensor])


def read_header(file: Path, *, remedy: str) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name.

    The format (https://huggingface.co/docs/safetensors): 8 bytes with the header's length N, least
    significant first; N bytes of JSON; the tensors, which follow each other without gaps.

    Args:
        file: a safetensors file.
        remedy: what to do about a damaged file, a sentence for the error.

    Raises:
        ModelError: the header is incomplete, or its tensors do not fill the file exactly.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
            if length > size - LENGTH_BYTES:
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(opened.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is not an object")
        tensors = TENSORS.validate_python({k: v for k, v in header.items() if k != METADATA})
        _check_filled(tensors, size - LENGTH_BYTES - length)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged ({one_line(error)}). {remedy}") from error
    return tensors


def _check_filled(tensors: dict[str, StoredTensor], data_bytes: int) -> None:
    for name, tensor in tensors.items():
        first, after = tensor.data_offsets
        if tensor.dtype not in BITS or tensor.elements * BITS[tensor.dtype] != 8 * (after - first):
            raise ValueError(f"{name} of {tensor.dtype} {tensor.shape} in {after - first:,} bytes")
    end = 0
    for first, after in sorted(tensor.data_offsets for tensor in tensors.values()):
        if first != end or after < first:
            raise ValueError(f"tensors leave a gap or overlap at byte {first:,}")
        end = after
    if end != data_bytes:
        raise ValueError(f"tensors of {end:,} bytes, but {data_bytes:,} follow the header")
