"""What the benchmark does to the labels of a batch."""

from alignment.data.practice.source import PracticeSource
from benchmarks.bad_rounds import flipped, longer_wins, noise, reworded

PAIRS = list(PracticeSource(part="round-2", rows=48).pairs())


def test_flipped_labels_are_all_wrong_and_noise_is_wrong_in_about_half():
    assert [(p.chosen, p.rejected) for p in flipped(PAIRS)] == [
        (p.rejected, p.chosen) for p in PAIRS
    ]
    kept = sum(
        after.chosen == before.chosen for after, before in zip(noise(PAIRS), PAIRS, strict=True)
    )
    assert 12 < kept < 36


def test_the_longer_reply_always_wins():
    assert all(
        len(pair.chosen[0].text) >= len(pair.rejected[0].text) for pair in longer_wins(PAIRS)
    )


def test_reworded_prompts_are_others_with_the_labels_flipped():
    for after, before in zip(reworded(PAIRS), PAIRS, strict=True):
        assert after.prompt[-1].text.startswith(before.prompt[-1].text)
        assert after.prompt[-1].text != before.prompt[-1].text
        assert after.chosen == before.rejected
