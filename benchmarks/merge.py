"""What a merge takes: seconds, and the memory that no file stands behind, beyond the imports.

    python -m benchmarks.merge --model 7b --scratch FOLDER

Writes a base of the shape with random weights and an adapter of all its linear layers (rank 64)
to the folder, 15.5 GB at 7B, unless they are there, and merges them in bfloat16 beside it.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from alignment.execution.run_step import KEEP_FREED_MEMORY
from alignment.models.adapters import describe_adapter
from alignment.models.merge import Deltas, write_merge
from alignment.models.weight_files import SHARD_SIZE
from alignment.records import BaseRef
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.memory import forget, watched
from benchmarks.workload import SHAPES, write_model

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 64, 128


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Merge, print what it took and give it back: seconds, kept share, GB."""
    asked = _parser().parse_args(arguments)
    base = write_model(asked.model, asked.scratch / asked.model)
    adapter = _write_adapter(asked.model, asked.scratch / f"{asked.model}-adapter")
    out = asked.scratch / "merged"
    shutil.rmtree(out, ignore_errors=True)
    deltas = _deltas(base, adapter)
    forget()
    began = time.monotonic()
    with watched() as taken:
        _, kept = write_merge(
            deltas,
            store=Store(root=asked.scratch / "store"),
            dtype="bfloat16",
            folder=out,
            progress=Progress(),
        )
    found = {
        "seconds": time.monotonic() - began,
        "kept_share": kept,
        "written_gb": sum(file.stat().st_size for file in out.iterdir()) / 1e9,
        "memory_gb": taken.beyond / 1e9,
    }
    shutil.rmtree(out)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"{asked.model}, shards of {SHARD_SIZE}: {figures}")
    return found


def _deltas(base: Path, adapter: Path) -> Deltas:
    ref = describe_adapter(adapter, uri=f"folder:{adapter}", stage="sft", trained_on="")
    origin = BaseRef(uri=f"folder:{base}", sha256="", dtype="bfloat16")
    return Deltas(origin=origin, adapters=(ref,))


def _write_adapter(shape: str, folder: Path) -> Path:
    """An adapter of all linear layers of a shape with random weights, written once."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if folder.exists():
        return folder
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LINEAR), task_type="CAUSAL_LM")
    with torch.device("meta"):
        model = get_peft_model(Qwen2ForCausalLM(Qwen2Config(**SHAPES[shape])), lora)
    torch.manual_seed(1)
    weights = {
        name.replace(".default", ""): torch.empty(weight.shape).normal_(std=0.01)
        for name, weight in model.named_parameters()
        if "lora_" in name
    }
    partial = folder.with_name(f"{folder.name}.partial")
    model.peft_config["default"].save_pretrained(str(partial))
    save_file(weights, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    return partial.rename(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("--model", default="tiny", choices=SHAPES)
    parser.add_argument("--scratch", type=Path, default=Path("runs/benchmark-models/merge"))
    return parser


def _as_a_step() -> None:
    """Begin anew where memory is not managed as in the process of a step."""
    if not KEEP_FREED_MEMORY.items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.merge", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | KEEP_FREED_MEMORY)


if __name__ == "__main__":
    _as_a_step()
    main()
