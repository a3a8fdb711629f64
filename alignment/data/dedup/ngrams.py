"""Texts as sets of hashed word n-grams, to compare two rows and to find leaked prompts.

Words are separated by white space, after normalisation. Text without spaces, such as Chinese, is
split into characters. Not here: what is dropped (`dedup/compare.py`, `dedup/contamination.py`).
"""

import zlib
from collections.abc import Sequence

import numpy as np
import rensa
from numpy.typing import NDArray

from alignment.data.split import normalise
from alignment.processes import note_threads

HASHES = 128
"""Minima in a signature: half of them for the prompt, half for the replies. The standard error of
an estimated similarity s of either half is sqrt(s (1 - s) / 64), about 0.04 at s = 0.9."""
BANDS = 16
"""Groups of eight minima, four from each half. Rows with prompt and reply similarities p and r
agree on at least one whole group, and so are compared, with probability
1 - (1 - p^4 r^4)^16: .95 at .8, .9999 at .9 (Leskovec et al. 2020, 3.4)."""
WORDS = 5
"""Words per n-gram when two rows are compared."""
_LONG = 20
"""Average characters per word above which a text is taken to have no spaces between words."""
_AT_ONCE = 64
"""Rows per call of rensa: it computes fewer than 128 in our thread, at a third of the cost."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SEED = 1


def words_of(text: str) -> Sequence[str]:
    """A text's words, normalised; or its characters if it has no spaces between words."""
    plain = normalise(text)
    found = plain.split()
    return found if len(found) * _LONG >= len(plain) else plain


def grams(text: str, *, words: int) -> NDArray[np.uint64]:
    """Hashes of a text's n-grams of `words` words, at least one: [n-grams]."""
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

    A row is its prompt followed by its replies, in order. Prompt and replies have separate halves:
    otherwise any two replies to one long prompt would count as similar.
    """
    prompts = _minima([grams(row[0], words=WORDS) for row in rows])
    replies = _minima([_reply_grams(row[1:]) for row in rows])
    halves = (half.reshape(len(rows), BANDS, -1) for half in (prompts, replies))
    return np.concatenate(list(halves), axis=2).reshape(len(rows), HASHES)


def similarity(one: NDArray[np.uint16], other: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of prompts or of replies, whichever is smaller: [pairs]."""
    equal = (one == other).reshape(len(one), BANDS, 2, -1)
    smaller: NDArray[np.float64] = equal.mean(axis=(1, 3)).min(axis=1)
    return smaller


def _reply_grams(texts: Sequence[str]) -> NDArray[np.uint64]:
    """The n-grams of all replies, offset by position so that A over B differs from B over A."""
    found = [grams(text, words=WORDS) + np.uint64(at) for at, text in enumerate(texts)]
    return np.concatenate(found) if found else np.zeros(1, dtype=np.uint64)


def _minima(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint16]:
    """The minima of each set of n-grams: [sets, HASHES / 2]."""
    note_threads()  # of rensa, if the rows are long
    parts = (sets[start : start + _AT_ONCE] for start in range(0, len(sets), _AT_ONCE))
    return np.concatenate([_digests(part) for part in parts])


def _digests(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint16]:
    offsets = np.concatenate([[0], np.cumsum([len(found) for found in sets])]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), offsets, num_perm=HASHES // 2, seed=_SEED
    )
    return np.array(matrix.to_rows(), dtype=np.uint64).astype(np.uint16)
