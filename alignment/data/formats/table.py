"""The table of formats in the documentation, from what the classes say of themselves.

python -m alignment.data.formats.table docs/data.md
"""

import re
import sys
from pathlib import Path

from alignment.data.formats import FALLBACK, KNOWN

BEGIN, END = "<!-- formats: written by `make schema` -->", "<!-- end of formats -->"
_KINDS = {"conversations": "chats", "pairs": "pairs", "prompts": "prompts"}


def formats_table() -> str:
    """One row per format: its name, the columns it is known by, what is read of them, its kind."""
    formats = {one.name: type(one) for one in (*KNOWN, FALLBACK)}.values()
    rows = [
        f"| `{one.model_fields['name'].default}` | {_cell(one.expects)} | {_cell(one.reads)} | "
        f"{_KINDS[one.gives]} |"
        for one in formats
    ]
    return "\n".join(["| Name | Columns | What is read | Gives |", "|---|---|---|---|", *rows])


def with_table(document: str) -> str:
    """The document with its table of formats written anew."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{formats_table()}\n{END}", document)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\\n", "\\\\n")


def main(path: Path) -> None:
    """Write the table into a document."""
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
