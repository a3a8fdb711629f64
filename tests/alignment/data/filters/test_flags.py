"""Flags of kept rows: long, odd, repeated prompt."""

import pytest

from alignment.data.filters.flags import Flag, flags, from_bits, to_bits
from tests.alignment.data.made import chat, pair


@pytest.mark.parametrize(("letters", "long"), [(3 * 1024, False), (3 * 1024 + 3, True)])
def test_a_row_is_long_by_its_prompt_and_the_longer_reply(letters, long):
    """Three ASCII bytes count as a token; 1,024 tokens are not yet long."""
    of_pair = pair("p" * 1000, chosen="c" * (letters - 1000), rejected="r" * 500)
    of_chat = chat(("user", "p" * 1000), ("assistant", "c" * (letters - 1000)))
    for row in (of_pair, of_chat):
        assert (Flag.long in flags(row.record)) == long


def test_text_in_other_scripts_counts_more_tokens_per_character():
    """600 Chinese characters of three bytes: 600 * 3 * 0.6 = 1,080 tokens."""
    assert flags(pair("\u95ee" * 600).record) == (Flag.long,)
    assert flags(pair("p" * 600).record) == ()


def test_tabs_and_line_ends_are_not_control_characters():
    assert flags(pair(chosen="bell \a").record) == (Flag.control_character,)
    assert flags(pair(chosen="a\tb\r\nc").record) == ()


def test_flags_survive_the_bit_mask():
    for bits in range(2 ** len(Flag)):
        assert to_bits(from_bits(bits)) == bits
