"""Files and values that are no YAML at all: one sentence, never a traceback."""

import pytest

from alignment.config.file import load
from alignment.errors import ConfigError

CONTENTS = {
    "weights": (b"\x08\x00\x00\x00\x00\x00\x00\x00{}\xff\xfe", "not a text in UTF-8"),
    "latin-1": ("name: Müller".encode("latin-1"), "not a text in UTF-8"),
    "control character": (b"name: a\x00b\n", "not valid YAML: unacceptable character #x0000"),
    "no such day": (b"name: 2024-05-40\n", "not valid YAML"),
    "nested deeply": (b"name: " + b"[" * 3000, "not valid YAML"),
    "no number": (b"name: !!float x\n", "not valid YAML"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_that_is_no_yaml_is_refused_in_one_line(tmp_path, kind):
    content, message = CONTENTS[kind]
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["a\x01b", "2024-05-40", "[" * 3000, "!!float x"])
def test_so_is_a_value_of_an_override(tiny_settings, write_config, value):
    with pytest.raises(ConfigError, match="the value is not valid YAML"):
        load(write_config(tiny_settings), [f"name={value}"])
