"""Rows in a file, what is read of them, and a short notation of it.

`s:`, `u:`, `a:`, `t:` stand for the turns of system, user, assistant and tool.
"""

import csv
import json

from alignment.data.build.ingest import IngestOptions, ingest

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}
CLOCK = {"name": "clock", "description": "tells the time", "parameters": {"type": "object"}}
PAIR = "u:q / a:good > a:bad"


def read(tmp_path, rows, *, suffix="jsonl", columns=None, format_=None):
    """(kept rows, reasons by row, report of the file)."""
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = IngestOptions(columns=columns or {}, format=format_ or {"name": "auto"})
    report = ingest([str(path)], options, out=tmp_path / "out", on_progress=lambda *_: None)
    kept, aside = (
        list(map(json.loads, (tmp_path / "out" / f"{name}.jsonl").read_bytes().splitlines()))
        for name in ("kept", "quarantine")
    )
    return kept, {row["row"]: row["reason"] for row in aside}, report.files[0]


def told(messages):
    return " ".join(f"{message['role'][0]}:{message['content']}" for message in messages)


def summary(row):
    if "messages" in row:
        return told(row["messages"])
    if "chosen" not in row:
        return told(row["prompt"])
    return f"{told(row['prompt'])} / {told(row['chosen'])} > {told(row['rejected'])}"
