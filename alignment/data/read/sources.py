"""Where data comes from: files, the Hugging Face hub, or the practice set.

A source is a frozen model with a literal `name`. `read` gives its raw rows with their location, and
`digest` identifies its content for cache keys. A row's own text columns `task_type` and `source`
override the labels from the config; without either, `category` is the task type.
Not here: bytes (`files.py`), what columns mean (`formats/`), generated rows (`practice/`).
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from alignment.data.filters.content import DAMAGE
from alignment.data.formats import Auto, Format
from alignment.data.formats.rows import RawRow
from alignment.data.practice.source import PracticeSource
from alignment.data.read import files
from alignment.data.read.files import Meter
from alignment.data.row import Rejected
from alignment.errors import DataError
from alignment.records.base import Frozen, Json, digest_of
from alignment.records.text import Quarantined
from alignment.urls import storable

DEFAULT_TASK = "general"
LONGEST_LABEL = 60
"""Longest category, in characters, that is taken for a task type."""
LARGE_ROWS, LARGE_BYTES = 2_000, 4_000_000
"""Beyond either, filtering takes one process more than a second or two."""


class RowSource(Frozen):
    """Fields common to all sources of raw rows. Abstract."""

    format: Format = Field(
        default=Auto(),
        description="What the columns mean. Default: `auto`, detected from the columns and "
        "reported; an error if ambiguous.",
    )
    task_type: str = Field(
        default=DEFAULT_TASK,
        min_length=1,
        description="Label by which metrics are also reported. A row's own column task_type "
        "overrides it, and its category does if this is left at the default.",
    )
    use: Literal["split", "held_out"] = Field(
        default="split",
        description="`split`: split into training and held-out rows by the set's held_out_share. "
        "`held_out`: used for evaluation only; no row is trained on.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Columns to rename, {theirs: ours}, before the format is applied; for "
        "example {query: prompt}. A column renamed to an empty text is left out on purpose.",
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of its prompts to use, above 0 and up to 1. Chosen by hash, so adding "
        "rows does not change the choice for others.",
    )
    limit: PositiveInt | None = Field(
        default=None, description="Read only this many rows, from the start. Default: all."
    )


class FileSource(RowSource):
    """JSON Lines, JSON, CSV, TSV, Excel or Parquet files, also compressed as `.gz` or `.zst`."""

    name: Literal["file"] = "file"
    path: files.DataPath = Field(
        min_length=1,
        description="A file, a folder (searched recursively) or a glob pattern: a local path or a "
        "URL that fsspec can open. The query of a URL is shown and stored as a digest.",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Expected sha256 of the file, 64 hex digits; other content is an error. "
        "Default: not checked.",
    )

    @property
    def label(self) -> str:
        """The source's display name: its path; of a URL, without the query."""
        return storable(self.path)

    def digest(self) -> str:
        """The sha256 of all files' names and contents; a file pinned by `sha256` is not read.

        Raises:
            DataError: there is no file, or one cannot be read.
        """
        if self.sha256:
            return digest_of([[PurePath(self.path).name, self.sha256]])
        return digest_of([[PurePath(file).name, files.sha256(file)] for file in self.files()])

    def files(self) -> list[str]:
        """Its files, sorted by name.

        Raises:
            DataError: there is none.
        """
        return files.find(self.path)

    def size(self) -> int:
        """Bytes that will be read; 0 if unknown.

        Raises:
            DataError: there is no file, or the size of one cannot be determined.
        """
        return 0 if self.limit else sum(map(files.size, self.files()))

    def read(self, meter: Meter | None = None) -> Iterator[RawRow | Quarantined]:
        """The rows, file by file in order of the files' names.

        Args:
            meter: tracks how much of the files has been read.

        Raises:
            DataError: there is no file; or a file cannot be read, has no readable row, or does not
                have the pinned sha256.
        """
        self._check_pin()
        found = (self._rows(file, meter or Meter()) for file in files.find(self.path))
        return islice(chain.from_iterable(found), self.limit)

    def _rows(self, file: str, meter: Meter) -> Iterator[RawRow | Quarantined]:
        source, shown = files.stem(file), storable(file)
        for number, row in files.read(file, meter):
            yield _raw_row(self, shown, number, row, source=source)

    def _check_pin(self) -> None:
        if self.sha256 is None:
            return
        digests = [files.sha256(file) for file in files.find(self.path)]
        if digests != [self.sha256]:
            found = digests[0] if len(digests) == 1 else f"{len(digests)} files"
            raise DataError(
                f"{self.path}: expected one file with sha256 {self.sha256}, found {found}. "
                "Fetch the file again, or update the pinned sha256."
            )


class HubSource(RowSource):
    """A data set on the Hugging Face hub, at one commit."""

    name: Literal["hub"] = "hub"
    dataset: str = Field(
        pattern=r"^[\w.-]+/[\w.-]+$", description="Id of the data set, owner/name."
    )
    config: str | None = Field(
        default=None, description="Configuration (subset) of the data set. Default: its only one."
    )
    data_dir: str | None = Field(
        default=None,
        description="Folder within the repository, for repositories with several data sets.",
    )
    split: str = Field(default="train", min_length=1, description="Split to read.")
    revision: str = Field(
        default="main",
        min_length=1,
        description="Branch, tag or commit. Pin a commit (40 hex digits) to make the run "
        "reproducible, or to run without a network.",
    )

    @property
    def label(self) -> str:
        """The source's display name: owner/name[/config][/data_dir]/split."""
        return "/".join(filter(None, (self.dataset, self.config, self.data_dir, self.split)))

    def digest(self) -> str:
        """Digest of the label and the commit to which `revision` currently points.

        Raises:
            DataError: the hub cannot be reached or does not have the revision.
        """
        return digest_of([self.label, self._commit()])

    def read(self) -> Iterator[RawRow | Quarantined]:
        """The rows of the split.

        Raises:
            DataError: the hub cannot be reached or has no such data set, configuration or split; or
                the working directory has a folder of that name.
        """
        import datasets

        self._check_no_folder()
        commit = self._commit()
        try:
            table = datasets.load_dataset(
                self.dataset,
                self.config,
                data_dir=self.data_dir,
                split=self.split,
                revision=commit,
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise self._unavailable(error) from error
        numbered = enumerate(islice(table, self.limit), start=1)
        return (
            _raw_row(self, self.label, number, row, source=self.dataset) for number, row in numbered
        )

    def _check_no_folder(self) -> None:
        """`datasets` would read a local folder of that name instead, whatever commit is pinned."""
        if Path(self.dataset).exists():
            raise DataError(
                f"hub data set {self.dataset!r}: the current directory has a folder "
                f"{self.dataset}, which would be read instead. Run from another directory, or "
                f"read the folder with a file source: ./{self.dataset}."
            )

    def _commit(self) -> str:
        if len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef"):
            return self.revision
        import huggingface_hub

        try:
            info = huggingface_hub.HfApi().dataset_info(self.dataset, revision=self.revision)
        except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
            raise self._unavailable(error) from error
        return str(info.sha)

    def _unavailable(self, error: Exception) -> DataError:
        problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return DataError(
            f"hub data set {self.dataset!r} (config {self.config}, split {self.split!r}, revision "
            f"{self.revision!r}) cannot be loaded: {problem}. Check the names and the network; "
            "offline, pin a commit that is in the local cache, or use a file source."
        )


def bytes_of(sources: Sequence["Source"]) -> int:
    """Total bytes to read from these sources; 0 if unknown.

    Raises:
        DataError: the size of a file cannot be determined.
    """
    sizes = [source.size() if isinstance(source, FileSource) else 0 for source in sources]
    return sum(sizes) if all(sizes) else 0


def may_be_large(sources: Sequence["Source"]) -> bool:
    """Whether these sources have, or may have, more rows than one process reads in seconds.

    Raises:
        DataError: the size of a file cannot be determined.
    """
    whole = [source for source in sources if isinstance(source, RowSource) and not source.limit]
    limits = [source.limit or 0 for source in sources if isinstance(source, RowSource)]
    if any(isinstance(source, HubSource) for source in whole) or sum(limits) > LARGE_ROWS:
        return True
    return sum(source.size() for source in whole if isinstance(source, FileSource)) > LARGE_BYTES


Source = Annotated[FileSource | HubSource | PracticeSource, Field(discriminator="name")]


def _raw_row(
    defaults: RowSource, file: str, number: int, row: Json | Rejected, *, source: str
) -> RawRow | Quarantined:
    if isinstance(row, Rejected):
        return Quarantined(file=file, row=number, reason=row.reason, detail=row.detail)
    if defaults.columns:
        named = ((defaults.columns.get(name, name), value) for name, value in row.items())
        row = {name: value for name, value in named if name}
    used: set[str] = set()
    task_type = _label(row, "task_type", used)
    if not task_type and defaults.task_type == DEFAULT_TASK:
        task_type = _category(row, used)
    own = _label(row, "source", used)
    return RawRow(file, number, row, task_type or defaults.task_type, own or source, used)


def _label(row: Json, column: str, used: set[str]) -> str:
    """The label in a column, which then counts as used; an empty text if it holds none."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip() or DAMAGE.search(value):
        return ""
    used.add(column)
    return value.strip()


def _category(row: Json, used: set[str]) -> str:
    """The category of a row, or that under `metadata`, if it is short enough to be a label."""
    for prefix, fields in (("", row), ("metadata.", row.get("metadata"))):
        if not isinstance(fields, dict) or not isinstance(fields.get("category"), str):
            continue
        value = str(fields["category"]).strip()
        if value and len(value) <= LONGEST_LABEL and not DAMAGE.search(value):
            used.add(f"{prefix}category")
            return value
    return ""
