"""docs/troubleshooting.md quotes messages that the product really has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `+(.+?)`+ \| ", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def texts():
    """Every text in the source, with … where something is filled in."""
    sources = [p for name in ("alignment", "flows", "tasks") for p in (ROOT / name).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    return "\n".join(filter(None, (text_of(node) for tree in trees for node in ast.walk(tree))))


def text_of(node):
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def test_the_page_quotes_many_messages():
    assert len(QUOTED) >= 30


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_of_the_products(message, texts):
    assert message.rstrip("… ") in texts
