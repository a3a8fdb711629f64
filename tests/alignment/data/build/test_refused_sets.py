"""Sets that are refused, and what the refusal says."""

import pytest
from pydantic import ValidationError

from alignment.data.build.settings import ConversationSetConfig, PairSetConfig
from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import FileSource
from alignment.errors import DataError
from tests.alignment.data.build.sets import file, question
from tests.chats import with_template


def test_too_many_unreadable_rows_fail_with_the_first_line(tmp_path, prepare):
    """2 bad rows of 100 are 2.0 %, twice what the default tolerates."""
    rows = [question(number) for number in range(98)]
    source = file(tmp_path, [*rows[:41], "{broken", *rows[41:], '{"instruction": 7}'])
    with pytest.raises(DataError) as error:
        prepare(ConversationSetConfig(sources=(source,)))
    assert str(error.value) == (
        "2 of 100 rows (2.0%) are unreadable, more than max_malformed_share 0.01 tolerates. "
        f"The first: {source.path} line 42: broken JSON: Expecting property name enclosed in "
        "double quotes at column 2. Fix the file, or raise max_malformed_share."
    )
    ref, _, _ = prepare(ConversationSetConfig(sources=(source,), max_malformed_share=0.02))
    assert ref.quarantined == {"malformed": 2}


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "too_long 3. Raise max_length; for SFT, `too_long: truncate_oldest_turns`"),
        ({"min_rows": 4}, "min_rows is 4: 3 rows read, 0 held out, dropped: none. Add rows"),
    ],
)
def test_too_few_rows_are_refused_with_the_counts_and_advice(tmp_path, prepare, options, advice):
    source = file(tmp_path, [question(number) for number in range(3)])
    with pytest.raises(DataError, match=advice):
        prepare(
            ConversationSetConfig(sources=(source,), held_out_share=0, **options),
            whole=4096 if options else 5,
        )


def test_rows_that_only_another_template_renders_are_refused_with_its_setting(
    tmp_path, prepare, chatml_tokenizer
):
    chat = [{"role": role, "content": "Yes."} for role in ("system", "user", "assistant")]
    source = file(tmp_path, [{"messages": chat}])
    refuses = with_template(
        chatml_tokenizer,
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + chatml_tokenizer.chat_template,
    )
    with pytest.raises(DataError, match=r"template 1\. .*system: into_user"):
        prepare(ConversationSetConfig(sources=(source,), held_out_share=0), tokenizer=refuses)


def test_a_file_in_two_sources_is_refused(tmp_path, prepare):
    source = file(tmp_path, [question(1)])
    folder = FileSource(path=str(tmp_path))
    with pytest.raises(DataError, match=r"a\.jsonl is read by two sources, .* remove it from one"):
        prepare(ConversationSetConfig(sources=(source, folder)))


@pytest.mark.parametrize(
    "values",
    [
        {"sources": ()},
        {"held_out_share": 0.6},
        {"limit": 0},
        {"max_malformed_share": 1.5},
        {"max_seq_length": 10},
    ],
)
def test_values_that_make_no_sense_are_refused(values):
    PairSetConfig(sources=(PracticeSource(),))
    with pytest.raises(ValidationError):
        PairSetConfig(**{"sources": (PracticeSource(),), **values})


def test_the_digest_of_a_set_follows_its_files(tmp_path):
    config = ConversationSetConfig(sources=(file(tmp_path, [question(1)]), PracticeSource()))
    before = config.digest()
    assert config.digest() == before
    file(tmp_path, [question(2)])
    assert config.digest() != before
