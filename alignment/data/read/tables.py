"""Reads rows from tables: CSV, TSV, Excel (xlsx) and Parquet. An empty cell is a missing value.

Not here: JSON (`json_rows.py`), what the columns mean (`formats/`), and renaming of columns by a
source's `columns` (`sources.py`).
"""

import csv as csv_module
import io
from collections.abc import Iterable, Iterator
from typing import IO

import python_calamine

from alignment.data.row import Reason, Rejected
from alignment.records.base import Json

Rows = Iterator[tuple[int, Json | Rejected]]
"""(1-based line or row, its fields or why it has none). A table's header is not counted."""
MAX_CELL = 2**24
"""Maximum characters in a cell of a CSV file."""


def csv(stream: IO[bytes], delimiter: str = ",") -> Rows:
    """Comma-separated values in UTF-8; the first row names the columns (RFC 4180).

    Raises:
        ValueError: there is no row that names the columns.
    """
    csv_module.field_size_limit(MAX_CELL)
    with io.TextIOWrapper(
        stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as text:
        yield from _with_header(_lines(csv_module.reader(text, delimiter=delimiter)))


def tsv(stream: IO[bytes]) -> Rows:
    """Tab-separated values; otherwise as `csv`."""
    return csv(stream, "\t")


def xlsx(stream: IO[bytes]) -> Rows:
    """The first sheet of an Excel file; its first row names the columns.

    Raises:
        ValueError: it is not an Excel file, or has no rows.
    """
    try:
        workbook = python_calamine.CalamineWorkbook.from_filelike(stream)
        sheet = workbook.get_sheet_by_index(0)
    except (python_calamine.CalamineError, OSError, IndexError) as error:
        raise ValueError(f"not an Excel file: {error}") from error
    return _with_header([_plain(cell) for cell in row] for row in sheet.iter_rows())


def parquet(stream: IO[bytes]) -> Rows:
    """The rows of a Parquet file."""
    import pyarrow.parquet

    number = 0
    for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _lines(reader: Iterator[list[str]]) -> Iterator[list[object] | Rejected]:
    while True:
        try:
            yield [cell or None for cell in next(reader)]
        except StopIteration:
            return
        except csv_module.Error as error:
            yield Rejected(Reason.malformed, f"broken CSV: {error}")


def _with_header(rows: Iterable[list[object] | Rejected]) -> Rows:
    table = iter(rows)
    header = next((row for row in table if not isinstance(row, Rejected) and any(row)), None)
    if not isinstance(header, list):
        raise ValueError("no row names the columns")
    names = [str(cell).strip() if cell is not None else "" for cell in header]
    for number, row in enumerate(table, start=1):
        yield number, row if isinstance(row, Rejected) else _fields(names, row)


def _fields(names: list[str], cells: list[object]) -> Json | Rejected:
    if all(cell is None for cell in cells):
        return Rejected(Reason.empty, "every cell is empty")
    if any(cell is not None for cell in cells[len(names) :]):
        return Rejected(Reason.malformed, f"{len(cells)} cells under {len(names)} columns")
    return {name: cell for name, cell in zip(names, cells, strict=False) if name}


def _plain(cell: object) -> object:
    """A cell as a JSON value: whole numbers become integers, dates become text."""
    if cell is None or cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if isinstance(cell, str | int | float | bool) else str(cell)
