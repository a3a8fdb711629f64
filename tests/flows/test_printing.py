"""What commands and logs print cannot steer a terminal, whoever named a file or wrote a reply."""

import ast
import logging
import pickle
from pathlib import Path

import pytest

from alignment.errors import ERRORS, printable
from alignment.execution.log_records import PrintableRecord
from flows.printing import say

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\r\u202eevil\u2066\udcff"
SHOWN = r"\x1b[2J\x1b]0;title\x07\x9b31m\r\u202eevil\u2066\udcff"


def test_what_a_terminal_would_obey_is_shown():
    assert printable(HOSTILE) == SHOWN


@pytest.mark.parametrize("text", ["a\tb\nc", "é 日本語\u3000 📄 👩\u200d🔬 \u00a0", r"\x1b"])
def test_all_other_text_is_left_alone(text):
    assert printable(text) == text


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_every_error_is_printable_and_crosses_processes(kind):
    error = pickle.loads(pickle.dumps(kind(f"{HOSTILE} is damaged")))
    assert (type(error), str(error)) == (kind, f"{SHOWN} is damaged")


def test_printed_and_logged_text_is_escaped(capsys):
    say(HOSTILE)
    say(HOSTILE, error=True)
    assert tuple(capsys.readouterr()) == (f"{SHOWN}\n", f"{SHOWN}\n")
    record = PrintableRecord("any", logging.INFO, "any.py", 1, "%s: refused", (HOSTILE,), None)
    assert record.getMessage() == f"{SHOWN}: refused"


def test_commands_print_text_of_others_only_escaped():
    """JSON escapes by itself; everything else goes through `say`."""
    bare = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "flows" / "commands").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
        if "json" not in ast.unparse(node)
    ]
    assert bare == []
