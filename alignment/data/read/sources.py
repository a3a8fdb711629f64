"""Where data comes from: files, the Hugging Face hub, or the practice set.

A source is a frozen model with a literal `name`; `read` gives its raw rows with their place, and
`digest` what a cache key must know of its content. A row's own text columns `task_type` and
`source` win over the labels that the config gives.
Not here: bytes (`files.py`), what columns mean (`formats/`), generated rows (`practice.py`).
"""

from collections.abc import Iterator, Sequence
from itertools import islice
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
from alignment.records import Frozen, Json, Quarantined, digest_of


class RowSource(Frozen):
    """What all sources of raw rows have in common. Abstract."""

    format: Format = Field(
        default=Auto(),
        description="what the columns mean; default auto: told by the columns and stated, "
        "an error when in doubt",
    )
    task_type: str = Field(
        default="general",
        min_length=1,
        description="what the rows practise; metrics are also reported by it. For rows without "
        "a column task_type",
    )
    use: Literal["split", "held_out"] = Field(
        default="split",
        description="split: train and held out by the set's held_out_share; held_out: a file of "
        "its own for evaluation, no row is trained on",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="other names for its columns, {theirs: ours}, before the format looks at "
        "them; {old: prompt}, for instance",
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of its prompts that are taken, above 0 to 1, by hash: a row that is "
        "added moves no other",
    )
    limit: PositiveInt | None = Field(
        default=None, description="read no more than the first so many rows; default: all"
    )


class FileSource(RowSource):
    """JSON Lines, JSON, CSV, Excel or Parquet files, also as `.gz` or `.zst`."""

    name: Literal["file"] = "file"
    path: files.Place = Field(
        min_length=1,
        description="a file, a folder (searched downwards) or a glob pattern; "
        "local, or a URL that fsspec opens",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="refuse a file with other bytes, 64 hex digits; default: take what lies there",
    )

    @property
    def label(self) -> str:
        """The source's name for people."""
        return self.path

    def digest(self) -> str:
        """The sha256 of all files' names and bytes; a pinned file is not looked at.

        Raises:
            DataError: no file, or one that cannot be read.
        """
        if self.sha256:
            return digest_of([[PurePath(self.path).name, self.sha256]])
        return digest_of([[PurePath(file).name, files.sha256(file)] for file in self.files()])

    def files(self) -> list[str]:
        """Its files, sorted.

        Raises:
            DataError: there is none.
        """
        return files.find(self.path)

    def size(self) -> int:
        """Bytes that will be read; 0 where nobody knows.

        Raises:
            DataError: no file, or one that cannot be looked at.
        """
        return 0 if self.limit else sum(map(files.size, self.files()))

    def read(self, meter: Meter | None = None) -> Iterator[RawRow | Quarantined]:
        """The rows, file after file in order of their names.

        Args:
            meter: follows how much of the files has been read.

        Raises:
            DataError: as `digest`, for a file without a single readable row, and for one that
                has not the pinned bytes.
        """
        self._check_pin()
        rows = (
            _placed(self, file, number, row, source=files.stem(file))
            for file in files.find(self.path)
            for number, row in files.read(file, meter or Meter())
        )
        return islice(rows, self.limit)

    def _check_pin(self) -> None:
        if self.sha256 is None:
            return
        digests = [files.sha256(file) for file in files.find(self.path)]
        if digests != [self.sha256]:
            have = digests[0] if len(digests) == 1 else f"{len(digests)} files"
            raise DataError(
                f"{self.path}: expected one file with sha256 {self.sha256}, found {have}. "
                "Fetch the file again, or pin what it is now."
            )


class HubSource(RowSource):
    """A data set of the Hugging Face hub, at one commit."""

    name: Literal["hub"] = "hub"
    dataset: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="the data set's id, owner/name")
    config: str | None = Field(default=None, description="its configuration; default: its only one")
    data_dir: str | None = Field(
        default=None, description="folder within the repository, where it keeps sets in folders"
    )
    split: str = Field(default="train", min_length=1, description="its split")
    revision: str = Field(
        default="main",
        min_length=1,
        description="branch, tag or commit; pin a commit (40 hex digits) for a run that can be "
        "repeated, and for one without a network",
    )

    @property
    def label(self) -> str:
        """The source's name for people: owner/name[/config][/data_dir]/split."""
        return "/".join(filter(None, (self.dataset, self.config, self.data_dir, self.split)))

    def digest(self) -> str:
        """The id at the commit that `revision` now names.

        Raises:
            DataError: the hub cannot be reached or does not know it.
        """
        return digest_of([self.label, self._commit()])

    def read(self) -> Iterator[RawRow | Quarantined]:
        """The rows of the split.

        Raises:
            DataError: the hub cannot be reached, or has no such data set, configuration or split;
                or a folder here has its name.
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
            _placed(self, self.label, number, row, source=self.dataset) for number, row in numbered
        )

    def _check_no_folder(self) -> None:
        """The library would read a folder of that name instead, whatever commit is pinned."""
        if Path(self.dataset).exists():
            raise DataError(
                f"hub data set {self.dataset!r}: a folder {self.dataset} lies here and would "
                f"be read in its place. Run elsewhere, or read the folder: ./{self.dataset}."
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
    """Bytes that reading all of these will take; 0 where nobody knows.

    Raises:
        DataError: a file cannot be looked at.
    """
    sizes = [source.size() if isinstance(source, FileSource) else 0 for source in sources]
    return sum(sizes) if all(sizes) else 0


Source = Annotated[FileSource | HubSource | PracticeSource, Field(discriminator="name")]


def _placed(
    defaults: RowSource, file: str, number: int, row: Json | Rejected, *, source: str
) -> RawRow | Quarantined:
    if isinstance(row, Rejected):
        return Quarantined(file=file, row=number, reason=row.reason, detail=row.detail)
    if defaults.columns:
        row = {defaults.columns.get(name, name): value for name, value in row.items()}
    task_type = _label(row, "task_type", defaults.task_type)
    return RawRow(file, number, row, task_type, _label(row, "source", source))


def _label(row: Json, column: str, default: str) -> str:
    value = row.get(column)
    usable = isinstance(value, str) and value.strip() and not DAMAGE.search(value)
    return str(value).strip() if usable else default
