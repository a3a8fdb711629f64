"""What a merge takes: seconds, and the memory that no file stands behind, beyond the imports.

    python -m benchmarks.merge --model 7b --scratch FOLDER

Writes a base of the shape with random weights and an adapter of all its linear layers (rank 64)
to the folder, 15.5 GB at 7B, unless they are there, and merges them in bfloat16 beside it.
"""

import argparse
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.models.adapters import describe_adapter
from alignment.models.merge import Deltas, write_merge
from alignment.models.shards import SHARD_SIZE
from alignment.progress import Progress
from alignment.records import BaseRef
from alignment.store import Store
from benchmarks.workload import SHAPES, tokenizer

if TYPE_CHECKING:
    from torch import Tensor

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 64, 128


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Merge, print what it took and give it back: seconds, kept share, GB."""
    asked = _parser().parse_args(arguments)
    base, adapter = asked.scratch / asked.model, asked.scratch / f"{asked.model}-adapter"
    _made(base, lambda folder: _write_base(asked.model, folder))
    _made(adapter, lambda folder: _write_adapter(asked.model, folder))
    out = asked.scratch / "merged"
    shutil.rmtree(out, ignore_errors=True)
    deltas = _deltas(base, adapter)
    taken: list[int] = []
    began = time.monotonic()
    with _sampled(taken):
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
        "memory_gb": (max(taken) - taken[0]) / 1e9,
    }
    shutil.rmtree(out)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"{asked.model}, shards of {SHARD_SIZE}: {figures}")
    return found


def _deltas(base: Path, adapter: Path) -> Deltas:
    ref = describe_adapter(adapter, uri=f"folder:{adapter}", stage="sft", trained_on="")
    origin = BaseRef(uri=f"folder:{base}", sha256="", dtype="bfloat16")
    return Deltas(origin=origin, adapters=(ref,))


def _made(folder: Path, write: Callable[[Path], None]) -> None:
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(folder)


def _write_base(shape: str, folder: Path) -> None:
    """A shard at a time, so that it needs no more memory than the merge may take."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**SHAPES[shape], dtype="bfloat16", architectures=["Qwen2ForCausalLM"])
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in Qwen2ForCausalLM(config).named_parameters()}
    torch.manual_seed(0)
    shard: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    number = 0
    for name, size in shapes.items():
        shard[name] = torch.empty(size, dtype=torch.bfloat16).normal_(std=0.02)
        where[name] = f"model-{number:05}.safetensors"
        if sum(weight.nbytes for weight in shard.values()) > 3e9 or name == list(shapes)[-1]:
            save_file(shard, folder / where[name], metadata={"format": "pt"})
            shard, number = {}, number + 1
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _write_adapter(shape: str, folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LINEAR), task_type="CAUSAL_LM")
    with torch.device("meta"):
        model = get_peft_model(Qwen2ForCausalLM(Qwen2Config(**SHAPES[shape])), lora)
    torch.manual_seed(1)
    weights = {
        name.replace(".default", ""): torch.empty(weight.shape).normal_(std=0.01)
        for name, weight in model.named_parameters()
        if "lora_" in name
    }
    model.peft_config["default"].save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@contextmanager
def _sampled(taken: list[int]) -> Iterator[None]:
    """Anonymous memory of this process in bytes, at the beginning and every 20 ms."""
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            taken.append(_anonymous())

    taken.append(_anonymous())
    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _anonymous() -> int:
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(rows["RssAnon"].split()[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("--model", default="tiny", choices=SHAPES)
    parser.add_argument("--scratch", type=Path, default=Path("runs/benchmark-models/merge"))
    return parser


if __name__ == "__main__":
    main()
