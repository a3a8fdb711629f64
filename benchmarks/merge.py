"""Measures a merge: seconds, and anonymous memory beyond that of the imports.

    python -m benchmarks.merge --model 7b --scratch FOLDER

Writes a random base of the shape and an adapter of all its linear layers (rank 64) to the folder
(15.5 GB at 7B) unless they exist, and merges them there in bfloat16.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from alignment.models.adapters import describe_adapter
from alignment.models.folder import digest_of_files, weight_files
from alignment.models.merge import Deltas, write_merge
from alignment.models.weight_files import SHARD_SIZE
from alignment.records.refs import BaseRef
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.like_a_step import restart_like_a_step
from benchmarks.memory import free_memory, watch_memory
from benchmarks.workload import SHAPES, write_model

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 64, 128


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Merge; print and return seconds, kept share and GB."""
    options = _parser().parse_args(arguments)
    base = write_model(options.model, options.scratch / options.model)
    adapter = _write_adapter(options.model, options.scratch / f"{options.model}-adapter")
    out = options.scratch / "merged"
    shutil.rmtree(out, ignore_errors=True)
    deltas = _deltas(base, adapter)
    free_memory()
    started = time.monotonic()
    with watch_memory() as memory:
        _, kept_share = write_merge(
            deltas,
            store=Store(root=options.scratch / "store"),
            dtype="bfloat16",
            folder=out,
            progress=Progress(),
        )
    found = {
        "seconds": time.monotonic() - started,
        "kept_share": kept_share,
        "written_gb": sum(file.stat().st_size for file in out.iterdir()) / 1e9,
        "memory_gb": memory.growth / 1e9,
    }
    shutil.rmtree(out)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"{options.model}, shards of {SHARD_SIZE}: {figures}")
    return found


def _deltas(base: Path, adapter: Path) -> Deltas:
    ref = describe_adapter(adapter, uri=f"folder:{adapter}", stage="sft", trained_on="")
    digest = digest_of_files(weight_files(base))
    origin = BaseRef(uri=f"folder:{base}", sha256=digest, dtype="bfloat16")
    return Deltas(origin=origin, adapters=(ref,))


def _write_adapter(shape: str, folder: Path) -> Path:
    """Write a random adapter of all linear layers of a shape, unless it exists."""
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


if __name__ == "__main__":
    restart_like_a_step("benchmarks.merge")
    main()
