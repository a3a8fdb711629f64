"""The benchmark at a tiny size, which says nothing about speed: it runs and counts right."""

import json
import random

import pytest

from alignment.scoring.logprobs import encode
from benchmarks.speed import main, scaling
from benchmarks.workload import DISTRIBUTIONS, pairs_of, tokenizer


def test_rows_have_exactly_the_lengths_that_were_drawn():
    """The prompt includes the reply's opening, and each reply its end-of-turn token."""
    draw, words = random.Random(0), tokenizer()
    for pair in pairs_of("short", 20, seed=0):
        lengths = DISTRIBUTIONS["short"](draw)
        for reply, expected in ((pair.chosen, lengths.chosen), (pair.rejected, lengths.rejected)):
            row = encode(words, pair.prompt, reply, max_length=4096)
            assert (len(row.prompt), len(row.reply)) == (lengths.prompt, expected)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    places = ["--scratch", str(folder / "models"), "--out", str(folder / "out")]
    sizes = ["--lengths", "short", "--steps", "1", "--warm-up", "1", "--batch", "2x2"]
    return main([*places, *sizes]), folder / "out"


def test_both_engines_are_measured_on_the_same_rows_in_every_phase(results):
    found, _ = results
    assert [(row.phase, row.engine["name"]) for row in found] == [
        (phase, engine)
        for phase in ("sft", "dpo", "reference", "scoring")
        for engine in ("stock", "packed")
    ]
    for stock, packed in zip(found[::2], found[1::2], strict=True):
        assert stock.tokens_per_second * stock.seconds == pytest.approx(
            packed.tokens_per_second * packed.seconds
        ), "as many tokens"
        assert packed.losses[:1] == pytest.approx(stock.losses[:1], rel=1e-4)


def test_numbers_and_picture_are_written(results):
    found, out = results
    written = json.loads((out / "results.json").read_text())
    assert [row["seconds"] for row in written["results"]] == [row.seconds for row in found]
    assert written["matmul_limit"] > 0
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one(tmp_path):
    places = ["--scratch", str(tmp_path / "models"), "--out", str(tmp_path / "out")]
    sizes = ["--lengths", "short", "--steps", "2", "--warm-up", "1", "--batch", "2x2"]
    one, two = main([*places, *sizes, "--phase", "dpo", "--devices", "1,2"])
    assert (one.devices, two.devices) == (1, 2)
    assert two.losses[:1] == pytest.approx(one.losses[:1], rel=1e-5), "dropout differs later"
    assert one.tokens_per_second * one.seconds == pytest.approx(two.tokens_per_second * two.seconds)
    assert scaling([one, two]) == [f"dpo, 2 devices: {one.seconds / two.seconds:.2f} x one"]
