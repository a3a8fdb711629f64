"""Strange files in an inbox: `python -m tests.faults.fuzz_inbox --files 20000`.

Each file is a sound one of some kind with flipped bits or cut short, or has a hostile name, or is
no file at all: a link, a pipe, a socket. For every one the scan or the reader must say within
seconds that it can be used or why not, and the next file must be read as if nothing had happened. A
seed determines all files.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import socket
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.config.inbox import InboxConfig
from alignment.errors import printable
from alignment.rounds.inbox import Arrival, scan
from alignment.rounds.inspection import Inspector

ROWS = [{"prompt": f"Question {n}?", "chosen": "yes", "rejected": "no"} for n in range(20)]
NAMES = [
    "\x1b[2J",
    "a\nb",
    "\u202e",
    "x" * 200,
    "-rf",
    "%00",
    "'; --",
    "~",
    "é",
    "\xff",
    "a b",
    "📄",
]
AT_ONCE = 500
"""Files in the inbox at a time."""


def sound_files() -> dict[str, bytes]:
    """A readable file of every kind, by suffix."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table, parquet = pa.Table.from_pylist(ROWS), io.BytesIO()
    pq.write_table(table, parquet)
    cells = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    return {
        ".jsonl": lines,
        ".jsonl.gz": gzip.compress(lines),
        ".jsonl.zst": pa.compress(lines, codec="zstd", asbytes=True),
        ".json": json.dumps(ROWS, indent=1).encode(),
        ".csv": "".join(",".join(row) + "\n" for row in cells).encode(),
        ".tsv": "".join("\t".join(row) + "\n" for row in cells).encode(),
        ".parquet": parquet.getvalue(),
        ".xlsx": _sheet(cells),
    }


def _sheet(cells: list[list[str]]) -> bytes:
    """A minimal workbook."""
    rows = "".join(
        "<row>" + "".join(f'<c t="inlineStr"><is><t>{c}</t></is></c>' for c in row) + "</row>"
        for row in cells
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        '<sheet name="a" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData>'
        "</worksheet>",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, text in parts.items():
            file.writestr(name, text)
    return packed.getvalue()


class Fuzz:
    """Fills an inbox with strange files and reads them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._random = random.Random(seed)
        self._sound = sound_files()
        self._inbox, self._outside = folder / "inbox", folder / "outside.jsonl"
        self._outside.write_bytes(self._sound[".jsonl"])
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0

    def run(self, files: int) -> None:
        """Make and read this many files, some hundreds at a time."""
        with Inspector(seconds=60) as inspector:
            for first in range(0, files, AT_ONCE):
                self._inbox.mkdir()
                made = {self._make(number) for number in range(first, min(first + AT_ONCE, files))}
                self._read(inspector, made)
                for path in self._inbox.iterdir():
                    path.unlink()
                self._inbox.rmdir()

    def _make(self, number: int) -> str:
        """Make one strange file; returns its name as it is printed."""
        draw = self._random
        suffix = draw.choice(list(self._sound))
        hostile = draw.choice(NAMES) if draw.random() < 0.2 else ""
        name = os.fsencode(f"{number}{hostile}{suffix}")
        if draw.random() < 0.03:
            name = name.replace(b".", b"\xff\xfe.", 1)
        path = os.fsencode(self._inbox) + b"/" + name
        kind = draw.choice(
            ["flip", "flip", "flip", "cut", "cut", "nest", "sound", "link", "special"]
        )
        if kind in ("link", "special"):
            self._make_no_file(path, kind)
        else:
            Path(os.fsdecode(path)).write_bytes(self._content(kind, suffix))
        return printable(os.fsdecode(name))

    def _content(self, kind: str, suffix: str) -> bytes:
        draw, content = self._random, bytearray(self._sound[suffix])
        if kind == "flip":
            for _ in range(draw.choice([1, 1, 2, 20, 200])):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        if kind == "cut":
            del content[draw.randrange(len(content)) :]
        if kind == "nest":
            deep = b"[" * draw.choice([10, 1_000, 100_000]) + draw.choice([b"", b"\n"])
            content += gzip.compress(deep) if suffix.endswith(".gz") else deep
        return bytes(content)

    def _make_no_file(self, path: bytes, kind: str) -> None:
        draw = self._random
        if kind == "link":
            targets: list[str | Path] = [
                self._outside,
                self._inbox,
                "nothing",
                Path(os.fsdecode(path)).name,
                "/dev/zero",
            ]
            Path(os.fsdecode(path)).symlink_to(draw.choice(targets))
        elif draw.random() < 0.5:
            os.mkfifo(path)
        else:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)  # too long a name is no socket
                return
            os.mkfifo(path)

    def _read(self, inspector: Inspector, made: set[str]) -> None:
        config = InboxConfig(path=str(self._inbox), settle_seconds=0)
        named = set()
        for found in scan(config):
            began = time.monotonic()
            named.add(printable(found.file).removeprefix(f"{self._inbox}/"))
            if isinstance(found, Arrival):
                problem = inspector.problem(config, found.file)
                self.outcomes["read" if problem is None else "refused"] += 1
                assert problem is None or problem.strip(), (
                    f"{found.file} is refused without a reason"
                )
            else:
                self.outcomes["skipped"] += 1
                assert found.why.strip(), f"{found.file} is skipped without a reason"
            self.slowest = max(self.slowest, time.monotonic() - began)
        assert named == made, f"lost without a word: {sorted(made ^ named)[:5]}"


def run(files: int, seed: int) -> tuple[Counter[str], float]:
    """Read this many strange files: how many ended how, and the seconds of the slowest."""
    with tempfile.TemporaryDirectory(prefix="f-") as folder:
        fuzz = Fuzz(seed, Path(folder))
        fuzz.run(files)
        return fuzz.outcomes, fuzz.slowest


def main() -> int:
    """Run the fuzz and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    began = time.monotonic()
    outcomes, slowest = run(wanted.files, wanted.seed)
    print("  ".join(f"{name}: {count}" for name, count in sorted(outcomes.items())))
    seconds = time.monotonic() - began
    name = f"strange files in an inbox (seed {wanted.seed})"
    print(f"{name}: tried {wanted.files}, lost 0, {seconds:.0f} s, the slowest {slowest:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
