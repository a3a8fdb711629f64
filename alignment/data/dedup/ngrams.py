"""Texts as sets of hashed word n-grams: how alike two rows are, and whether a prompt has leaked.

Words are what white space separates, after normalisation; a text without spaces, as Chinese has
it, is taken by characters. Not here: what follows from it (`index.py`, `clean.py`).
"""

import zlib
from collections.abc import Sequence

import numpy as np
import rensa
from numpy.typing import NDArray

from alignment.data.split import normalise

HASHES = 128
"""Minima in a signature, half of them of what is asked and half of what is answered: the standard
error of a similarity s of one half is sqrt(s (1 - s) / 64), at 0.9 about 0.04."""
BANDS = 16
"""Groups of eight minima, four of each half. Rows whose halves have similarities p and r meet in
one with probability 1 - (1 - p^4 r^4)^16: .95 at .8, .9999 at .9 (Leskovec et al. 2020, 3.4)."""
WORDS = 5
"""Words of an n-gram for likeness."""
_LONG = 20
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SEED = 1


def words_of(text: str) -> Sequence[str]:
    """A text's words, normalised; its characters where the words are longer than words are."""
    plain = normalise(text)
    found = plain.split()
    return found if len(found) * _LONG >= len(plain) else plain


def grams(text: str, *, words: int) -> NDArray[np.uint64]:
    """The hashes of a text's n-grams of `words` words, one at least; shape [n-grams]."""
    hashed = np.fromiter(
        (zlib.crc32(word.encode("utf-8", "replace")) for word in words_of(text)), dtype=np.uint64
    )
    found = np.zeros(max(1, len(hashed) - words + 1), dtype=np.uint64)
    for at in range(min(words, len(hashed))):
        end = len(hashed) - min(words, len(hashed)) + 1 + at
        found = (found + hashed[at:end]) * _STEP
        found ^= found >> np.uint64(29)
    return found


def signatures(rows: Sequence[Sequence[str]]) -> NDArray[np.uint16]:
    """MinHash signatures (Broder 1997) of 16 bits each (Li and König 2010): [rows, HASHES].

    A row is what is asked and then its answers, in order. Both are told apart, or a long prompt
    would make any two answers to it alike; `similarity` compares two signatures.
    """
    prompts = _minima([grams(row[0], words=WORDS) for row in rows])
    replies = _minima([_answers(row[1:]) for row in rows])
    halves = (half.reshape(len(rows), BANDS, -1) for half in (prompts, replies))
    return np.concatenate(list(halves), axis=2).reshape(len(rows), HASHES)


def similarity(one: NDArray[np.uint16], other: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The smaller of the two halves' estimated Jaccard similarities, pair by pair: [pairs]."""
    equal = (one == other).reshape(len(one), BANDS, 2, -1)
    smaller: NDArray[np.float64] = equal.mean(axis=(1, 3)).min(axis=1)
    return smaller


def _answers(texts: Sequence[str]) -> NDArray[np.uint64]:
    """The n-grams of all answers, those of the first unlike those of the second."""
    found = [grams(text, words=WORDS) + np.uint64(at) for at, text in enumerate(texts)]
    return np.concatenate(found) if found else np.zeros(1, dtype=np.uint64)


def _minima(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint16]:
    """The minima of each set of n-grams: [sets, HASHES / 2]."""
    offsets = np.concatenate([[0], np.cumsum([len(found) for found in sets])]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), offsets, num_perm=HASHES // 2, seed=_SEED
    )
    return np.array(matrix.to_rows(), dtype=np.uint64).astype(np.uint16)
