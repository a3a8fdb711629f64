"""The program that answers with vLLM: run by the interpreter that has it, not by ours (`vllm.py`).

Standard input holds JSON lines: the settings, then a request each. Every answer is written as a
JSON line as it ends, to the descriptor that is the only argument; all else it says is for the log.
It imports nothing of this project, and vLLM only after its environment is set.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: it ends whole, and names its own errors
}

READ_TOKENS = 4096
"""Tokens of prompts that are read together on a CPU."""

Json = dict[str, Any]


def main(descriptor: int) -> None:
    """Answer every request."""
    _end_with_parent()
    settings, *requests = map(json.loads, sys.stdin)
    _set_environment(settings["gpu"])
    with open(descriptor, "w", encoding="utf-8") as answers:
        for row in _written(settings, requests):
            print(json.dumps(row), file=answers, flush=True)


def _written(settings: Json, requests: Sequence[Json]) -> Iterator[Json]:
    """The tokens of each answer, the stop token included, and their log-probability."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind

    engine = _engine(settings)
    adapter = settings["adapter"] and LoRARequest("adapter", 1, settings["adapter"])
    for number, request in enumerate(requests):
        sampling = SamplingParams(
            **settings["sampling"],
            seed=request["seed"],
            stop_token_ids=settings["stops"],
            ignore_eos=True,  # else those of the folder's generation config are added to ours
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": request["ids"]}
        engine.add_request(f"{number}", prompt, sampling, lora_request=adapter)
    while engine.has_unfinished_requests():
        for output in engine.step():
            (found,) = output.outputs
            yield {
                "request": int(output.request_id),
                "tokens": list(found.token_ids),
                "logprob": found.cumulative_logprob,
                "stopped": found.finish_reason == "stop",
            }


def _engine(settings: Json) -> Any:
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform

    device: Json = {"gpu_memory_utilization": settings["gpu_share"]}
    if current_platform.is_cpu():
        device = {
            "kv_cache_memory_bytes": settings["cpu_cache_bytes"],
            "enforce_eager": True,  # compiling takes longer than it saves
            # vLLM 0.32 fails at a seeded prompt that it reads in parts
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(READ_TOKENS, settings["longest"]),
        }
    arguments = EngineArgs(
        model=settings["folder"],
        skip_tokenizer_init=True,
        trust_remote_code=False,
        generation_config="vllm",
        dtype=settings["dtype"],
        max_model_len=settings["longest"],
        max_num_seqs=settings["rows"],
        enable_lora=bool(settings["adapter"]),
        max_lora_rank=settings["rank"],
        seed=0,
        **device,
    )
    return LLMEngine.from_engine_args(arguments)


def _set_environment(gpu: int | None) -> None:
    """Show this GPU alone, of those that the parent sees; and nothing of the parent's group."""
    os.environ.update(ENVIRONMENT)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    if gpu is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[gpu] if seen else str(gpu)


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent does (Linux), and not Ctrl-C before it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main(int(sys.argv[1]))
