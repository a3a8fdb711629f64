"""One new token per row beside others of any length attends as if its row were alone."""

import pytest
import torch

from alignment.answers.attention import StepAttention
from alignment.answers.cache import Cache
from alignment.scoring.attention import Scores, attend_segment

HEADS, KEY_HEADS, SIZE = 4, 2, 16
LENGTHS = [1, 2, 3, 7, 8, 9, 40, 64, 65, 100]
KINDS = {
    "plain": Scores(),
    "own scale": Scores(scale=0.5),
    "window": Scores(window=8),
    "capped": Scores(cap=2.0),
    "capped, in a window": Scores(cap=2.0, window=5),
    "sinks": Scores(sinks=torch.linspace(-1, 1, HEADS)),
    "sinks, in a window": Scores(sinks=torch.linspace(-1, 1, HEADS), window=5),
}


@pytest.mark.parametrize("scores", KINDS.values(), ids=KINDS.keys())
def test_rows_of_any_length_attend_as_they_would_alone(scores):
    torch.manual_seed(0)
    cache, layer = Cache(sum(LENGTHS) + 5 * len(LENGTHS)), "layer"
    starts = [start for length in LENGTHS if (start := cache.reserve(length + 5)) is not None]
    query = torch.randn(1, HEADS, len(LENGTHS), SIZE)
    key, value = torch.randn(2, 1, KEY_HEADS, len(LENGTHS), SIZE)
    for memory in cache.layer(layer, key, value):
        memory.copy_(torch.randn_like(memory))

    begins, lengths = torch.tensor(starts), torch.tensor(LENGTHS)
    step = StepAttention(cache, begins + lengths - 1, begins, lengths, longest=None)
    found = step(layer, query, key, value, scores)

    keys, values = (part.transpose(0, 1)[None] for part in cache.layer(layer, key, value))
    for row, (start, length) in enumerate(zip(starts, LENGTHS, strict=True)):
        own = slice(start, start + length)
        alone = attend_segment(
            query[:, :, row : row + 1], keys[:, :, own], values[:, :, own], scores
        )
        torch.testing.assert_close(found[:, row], alone[:, :, 0], rtol=1e-5, atol=1e-6)
