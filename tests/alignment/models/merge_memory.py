"""Merges in a process of its own, with our code or PEFT, and prints the memory used as JSON.

python -m tests.alignment.models.merge_memory shards|peft BASE ADAPTER OUT
"""

import importlib
import json
import sys
from pathlib import Path

import torch

from benchmarks.memory import watch_memory

SHARD = 40_000_000


def by_shards(base, adapter, out):
    from alignment.models import weight_files
    from alignment.models.adapters import describe_adapter
    from alignment.models.folder import digest_of_files
    from alignment.models.merge import Deltas, write_merge
    from alignment.records.refs import BaseRef
    from alignment.store.progress import Progress
    from alignment.store.store import Store

    weight_files.SHARD_SIZE = str(SHARD // 1_000_000) + "MB"
    ref = describe_adapter(adapter, uri=f"folder:{adapter}", stage="sft", trained_on="")
    digest = digest_of_files(sorted(base.glob("*.safetensors")))
    origin = BaseRef(uri=f"folder:{base}", sha256=digest, dtype="bfloat16")
    deltas = Deltas(origin=origin, adapters=(ref,))
    write_merge(
        deltas, store=Store(root=out.parent), dtype="bfloat16", folder=out, progress=Progress()
    )


def by_peft(base, adapter, out):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.to(torch.bfloat16).save_pretrained(out, max_shard_size=SHARD)


def main(way, *paths):
    for module in ("peft", "transformers.models.qwen2.modeling_qwen2"):
        importlib.import_module(module)  # imports are not part of the measurement
    with watch_memory() as memory:
        (by_shards if way == "shards" else by_peft)(*map(Path, paths))
    sys.stdout.write(json.dumps(memory.growth) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
