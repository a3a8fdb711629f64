"""What is said of rows that are used: long, odd, asked before."""

import pytest

from alignment.data.filters.flags import Flag, as_bits, flags, of_bits
from tests.alignment.data.made import chat, pair


@pytest.mark.parametrize(("letters", "long"), [(3 * 1024, False), (3 * 1024 + 3, True)])
def test_a_row_is_long_by_its_prompt_and_the_longer_reply(letters, long):
    """Three ASCII bytes count as a token: 1,024 tokens are not yet too many."""
    of_pair = pair("p" * 1000, chosen="c" * (letters - 1000), rejected="r" * 500)
    of_chat = chat(("user", "p" * 1000), ("assistant", "c" * (letters - 1000)))
    for row in (of_pair, of_chat):
        assert (Flag.long in flags(row.record)) == long


def test_text_of_other_scripts_counts_more_tokens_a_character():
    """600 Chinese characters of three bytes: 600 * 3 * 0.6 = 1,080 tokens."""
    assert flags(pair("\u95ee" * 600).record) == (Flag.long,)
    assert flags(pair("p" * 600).record) == ()


def test_control_characters_are_told_from_tabs_and_line_ends():
    assert flags(pair(chosen="bell \a").record) == (Flag.control_character,)
    assert flags(pair(chosen="a\tb\r\nc").record) == ()


def test_flags_survive_their_column():
    for bits in range(2 ** len(Flag)):
        assert as_bits(of_bits(bits)) == bits
