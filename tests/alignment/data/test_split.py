import pytest
from pydantic import ValidationError

from alignment.data.split import (
    Part,
    PromptKeys,
    first_user_turn,
    is_held_out,
    normalise,
    prompt_key,
    unit_hash,
)
from alignment.errors import ArtifactError
from alignment.records.text import Message

KEYS = [f"{number:016x}" for number in range(4000)]


def user(text, *, system=None):
    turns = (Message(role="user", content=text), Message(role="assistant", content="x"))
    return turns if system is None else (Message(role="system", content=system), *turns)


@pytest.mark.parametrize(
    "same", ["Why  is\nthe sky blue?", " WHY is the SKY blue?\n", "Why is the sky \uff42lue?"]
)
def test_case_white_space_and_width_do_not_change_the_prompt_key(same):
    assert normalise(same) == "why is the sky blue?"
    assert prompt_key(user(same)) == prompt_key(user("Why is the sky blue?"))


def test_other_words_change_the_prompt_key():
    assert prompt_key(user("Why is the sky blue?")) != prompt_key(user("Why is the sky red?"))


def test_the_key_is_of_the_first_user_turn_alone():
    chat = user("a", system="Be brief.")
    assert first_user_turn(chat) == "a"
    assert prompt_key(chat) == prompt_key(user("a")) == prompt_key((*user("a"), *user("b")))
    assert first_user_turn(()) == ""


def test_about_the_configured_share_is_held_out():
    """4000 prompts at share 0.1: 400 expected, standard deviation sqrt(4000 * .1 * .9) = 19."""
    count = sum(is_held_out(key, 0.1, salt="1") for key in KEYS)
    assert 400 - 4 * 19 < count < 400 + 4 * 19
    assert not any(is_held_out(key, 0, salt="1") for key in KEYS)


def test_a_larger_share_holds_out_everything_that_a_smaller_one_does():
    small = {key for key in KEYS if is_held_out(key, 0.1, salt="1")}
    large = {key for key in KEYS if is_held_out(key, 0.3, salt="1")}
    assert small < large


def test_another_seed_gives_another_split():
    one, two = ({key for key in KEYS if is_held_out(key, 0.1, salt=salt)} for salt in "12")
    assert one != two


def test_parts_are_disjoint_and_cover_everything():
    parts = [
        {key for key in KEYS if Part(index=index, of=3).contains(key, salt="1")}
        for index in (1, 2, 3)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(KEYS)
    assert all(4000 / 3 - 150 < len(part) < 4000 / 3 + 150 for part in parts)


def test_a_part_has_its_share_of_held_out_prompts():
    """1333 prompts of a part at share 0.1: 133 expected; one hash for both would give 400 or 0."""
    part = [key for key in KEYS if Part(index=1, of=3).contains(key, salt="1")]
    assert 90 < sum(is_held_out(key, 0.1, salt="1") for key in part) < 180


@pytest.mark.parametrize("values", [(0, 2), (3, 2), (1, 0)])
def test_a_part_that_does_not_exist_is_refused(values):
    index, of = values
    with pytest.raises(ValidationError, match=r"greater than 0|does not exist; count from 1"):
        Part(index=index, of=of)


def test_hashes_never_change():
    """If the split changed between versions, held-out prompts would be trained on."""
    assert prompt_key(user("Why is the sky blue?")) == "ff880e2bc6febec9"
    assert unit_hash("a", salt="1") == pytest.approx(0.014302931499, abs=1e-12)


def test_prompt_keys_are_read_back_and_a_wrong_file_is_named(tmp_path):
    keys = PromptKeys(kind="pairs", trained=("a",), held_out=("b",))
    path = tmp_path / "prompt_keys.json"
    path.write_text(keys.model_dump_json())
    assert PromptKeys.read(path) == keys
    path.write_text("{}")
    with pytest.raises(ArtifactError, match=r"prompt_keys\.json does not list the prompts"):
        PromptKeys.read(path)
    with pytest.raises(ArtifactError, match="does not list"):
        PromptKeys.read(tmp_path / "none.json")
