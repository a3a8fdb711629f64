"""Names that a column refers to by number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def numbers_in(names: list[str], more: Sequence[str]) -> NDArray[np.uint32]:
    """The index in `names` of each of `more`, after adding those that are missing."""
    numbers = {name: at for at, name in enumerate(names)}
    for name in more:
        if name not in numbers:
            numbers[name] = len(names)
            names.append(name)
    return np.array([numbers[name] for name in more], dtype=np.uint32)
