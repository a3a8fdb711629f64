"""Rows and files of small sets."""

import json

from alignment.data.read.sources import FileSource
from alignment.store.jsonl import read_rows


def file(tmp_path, rows, name="a.jsonl", **options) -> FileSource:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    return FileSource(path=str(tmp_path / name), **options)


def question(number, *, answer="yes"):
    return {"instruction": f"Question {number}?", "output": answer}


def preference(number, *, chosen="yes, it is", rejected="no", **columns):
    return {
        "prompt": f"Question {number}?",
        "chosen": chosen,
        "rejected": rejected,
        **columns,
    }


def rows_of(out, name, model):
    return list(read_rows(out / name, model))
