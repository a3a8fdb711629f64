"""A chat template is a program that comes with a model: what it must not do."""

import json

import pytest

from alignment.errors import ModelError
from alignment.models.description import describe_tokenizer
from tests import tiny


@pytest.fixture
def with_template(tmp_path):
    """A function that saves a tokenizer whose template begins with a text; returns its folder."""

    def save(begin):
        tokenizer = tiny.tokenizer()
        tokenizer.chat_template = begin + tiny.SMOLLM2_TEMPLATE
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.mark.parametrize(
    "reach",
    [
        "cycler.__init__.__globals__.os.system({touch})",
        "''.__class__.__mro__[1].__subclasses__()",
        "messages.__class__.__base__",
    ],
)
def test_a_template_that_accesses_python_internals_is_refused_and_not_run(
    with_template, tmp_path, reach
):
    owned = tmp_path / "owned"
    reach = reach.format(touch=json.dumps(f"touch {owned}"))
    with pytest.raises(ModelError, match=r"the chat template in .* cannot be used: access to"):
        describe_tokenizer(with_template("{{ " + reach + " }}"), "folder:model")
    assert not owned.exists()


def test_an_invalid_template_is_refused(with_template):
    with pytest.raises(ModelError, match=r"cannot be used: .*endif"):
        describe_tokenizer(with_template("{% if messages %}"), "folder:model")


def test_a_template_may_raise_an_exception_for_a_chat(with_template):
    begin = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no') }}{% endif %}"
    assert describe_tokenizer(with_template(begin), "folder:model").chat_template_sha256


def test_another_template_makes_another_model(with_template):
    """Its digest is part of the model reference, and so of every key that depends on it."""
    first = describe_tokenizer(with_template(""), "folder:model")
    second = describe_tokenizer(with_template("{# another #}"), "folder:model")
    assert first.chat_template_sha256 != second.chat_template_sha256
