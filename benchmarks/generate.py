"""Compares ways to write answers, side by side: a table and results.json.

    python -m benchmarks.generate --model 7b --out generate-7b
    python -m benchmarks.generate --model 7b --nf4 --adapter 32 --way continuous:256 --way hf:16:16

Prompts have lognormal lengths (median 150 tokens), and every answer has `--tokens` tokens: the stop
token of the random model never wins. A way is NAME:ROWS[:PROMPTS], with fewer prompts where all
would take too long: hf, transformers (its own continuous batching), continuous or vllm (with
`--vllm PYTHON`, on a model folder). Each is run twice and the second is measured, as the first one
includes what happens once in a process; vllm is a new process each time, so its start counts.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from alignment.answers.answer import Answer, Asked
from alignment.answers.ask import answers
from alignment.answers.settings import AnswerEngine, Sampling, Vllm
from alignment.answers.vllm import Served, vllm_answers
from alignment.execution.provenance import hardware, libraries
from alignment.models.load import LoadedModel
from alignment.models.stopping import stop_ids
from alignment.records.base import Frozen
from alignment.records.refs import Nf4
from benchmarks.like_a_step import restart_like_a_step
from benchmarks.workload import DISTRIBUTIONS, SHAPES, load, pairs_of, write_model

GIB = 2**30


class Way(NamedTuple):
    """A way to write answers: its name, answers at once, and how many prompts it answers."""

    name: str
    rows: int
    prompts: int | None = None


class Speed(Frozen):
    """What was measured.

    Attributes:
        limit_share: bytes that must be read (the weights once a step, and the keys and values of
            each row), as a share of what the device reads in that time.
        cpu_seconds: processor time of this process and those that it started.
        texts: the answers by prompt.
    """

    way: str
    rows: int
    prompts: int
    tokens: int
    seconds: float
    cpu_seconds: float
    tokens_per_second: float
    peak_gib: float | None
    limit_share: float
    texts: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> list[Speed]:
    """Measure the ways; print the results and write them to `--out`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if any(way.startswith("vllm") for way in options.way or ()) and (
        options.model in SHAPES or options.adapter or options.nf4 or options.vllm is None
    ):
        parser.error("way vllm needs --vllm PYTHON and --model FOLDER, without --adapter and --nf4")
    loaded = _model(options)
    prompts = _prompts(options)
    bandwidth = read_bandwidth()
    print(f"{hardware()}: reads {bandwidth / 1e9:,.0f} GB/s")
    found: list[Speed] = []
    for text in options.way or ("hf:16:16", "hf:64:64", "transformers:256", "continuous:256"):
        name, rows, *rest = text.split(":")
        way = Way(name, int(rows), *map(int, rest))
        found.append(measure(way, loaded, prompts[: way.prompts], options, bandwidth))
        print(_line(found[-1]), f"{same_texts(found[0], found[-1]):7.1%} as the first", flush=True)
        _write(options, found, bandwidth)
    if options.profile:
        _profile(loaded, prompts, options)
    return found


def measure(
    way: Way,
    loaded: LoadedModel,
    prompts: Sequence[Asked],
    options: argparse.Namespace,
    bandwidth: float,
) -> Speed:
    """Answer the prompts twice and measure the second time."""
    sampling = Sampling(max_new_tokens=options.tokens, temperature=options.temperature)
    ways = {"transformers": _by_transformers, "vllm": partial(_by_vllm, options)}
    write: Any = ways.get(way.name, _by_engine)
    cuda = torch.cuda.is_available()
    for _ in range(1 if options.once else 2):
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start, cpu = time.perf_counter(), _cpu_seconds()
        texts, tokens, prompt_tokens = write(way, loaded, prompts, sampling)
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    steps = -(-len(prompts) // way.rows) * options.tokens
    mean_length = prompt_tokens / len(prompts) + options.tokens / 2
    read = steps * _weight_bytes(loaded.model) + tokens * mean_length * _token_bytes(loaded.model)
    return Speed(
        way=way.name,
        rows=way.rows,
        prompts=len(prompts),
        tokens=tokens,
        seconds=seconds,
        cpu_seconds=cpu,
        tokens_per_second=tokens / seconds,
        peak_gib=torch.cuda.max_memory_allocated() / GIB if cuda else None,
        limit_share=read / bandwidth / seconds,
        texts=texts,
    )


def same_texts(one: Speed, other: Speed) -> float:
    """Share of the prompts answered by both to which both give the same text."""
    both = one.texts.keys() & other.texts.keys()
    return sum(one.texts[name] == other.texts[name] for name in both) / len(both)


def read_bandwidth() -> float:
    """Bytes per second that a sum over a large tensor reads."""
    cuda = torch.cuda.is_available()
    data = torch.ones(2**31 if cuda else 2**25, dtype=torch.bfloat16).to("cuda" if cuda else "cpu")
    for count in (2, 10):  # the first round warms up
        start = _now()
        for _ in range(count):
            data.amax()
        seconds = _now() - start
    return data.numel() * 2 * 10 / seconds


def _by_engine(
    way: Way, loaded: LoadedModel, prompts: Sequence[Asked], sampling: Sampling
) -> tuple[dict[str, str], int, int]:
    engine = cast(AnswerEngine, way.name)
    found = answers(
        loaded.model,
        loaded.tokenizer,
        prompts,
        sampling,
        engine=engine,
        batch=way.rows,
        rows=way.rows,
    )
    return _counted(list(found), loaded, prompts)


def _by_vllm(
    options: argparse.Namespace,
    way: Way,
    loaded: LoadedModel,
    prompts: Sequence[Asked],
    sampling: Sampling,
) -> tuple[dict[str, str], int, int]:
    engine = Vllm(name="vllm", python=options.vllm)
    served = Served(Path(options.model), str(loaded.model.dtype).removeprefix("torch."))
    found = vllm_answers(engine, served, loaded.tokenizer, prompts, sampling, rows=way.rows)
    return _counted(list(found), loaded, prompts)


def _counted(
    found: Sequence[Answer], loaded: LoadedModel, prompts: Sequence[Asked]
) -> tuple[dict[str, str], int, int]:
    texts = {one.prompt_id: one.text for one in found}
    return texts, sum(one.tokens + one.stopped for one in found), _prompt_tokens(loaded, prompts)


def _by_transformers(
    way: Way, loaded: LoadedModel, prompts: Sequence[Asked], sampling: Sampling
) -> tuple[dict[str, str], int, int]:
    model, tokenizer = cast(Any, loaded.model), loaded.tokenizer
    stops = list(stop_ids(tokenizer, model.generation_config.eos_token_id))
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.temperature > 0,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )
    ids = [_ids(loaded, prompt) for prompt in prompts]
    with torch.no_grad():
        found = list(model.generate_batch(inputs=ids, generation_config=config).values())
    del way  # it chooses the number of rows itself
    written = [list(one.generated_tokens) for one in found]
    names = {tuple(row): prompt.id for row, prompt in zip(ids, prompts, strict=True)}
    texts = {
        names[tuple(one.prompt_ids)]: str(tokenizer.decode(row, skip_special_tokens=True))
        for one, row in zip(found, written, strict=True)
    }
    return texts, sum(map(len, written)), sum(map(len, ids))


def _ids(loaded: LoadedModel, prompt: Asked) -> list[int]:
    from alignment.models.chat_template import render

    return list(render(loaded.tokenizer, prompt.messages, add_generation_prompt=True))


def _prompt_tokens(loaded: LoadedModel, prompts: Sequence[Asked]) -> int:
    return sum(len(_ids(loaded, prompt)) for prompt in prompts)


def _model(options: argparse.Namespace) -> LoadedModel:
    folder = Path(options.model)
    if options.model in SHAPES:
        folder = write_model(options.model, options.scratch / options.model)
    half = options.bf16 or (torch.cuda.is_available() and not options.fp32)
    dtype = "bfloat16" if half else "float32"
    loaded = load(folder, dtype=dtype, quantisation=Nf4() if options.nf4 else None)
    if options.model in SHAPES:
        _never_stop(loaded)
    if options.adapter:
        return loaded.__class__(
            _adapted(loaded.model, options.adapter), loaded.tokenizer, loaded.ref
        )
    return loaded


def _never_stop(loaded: LoadedModel) -> None:
    """Give stop tokens a logit of 0, which is never the highest of a large vocabulary."""
    head: Any = loaded.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for index in stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id):
        head.weight.data[index] = 0


def _adapted(model: Any, rank: int) -> Any:
    torch.manual_seed(0)
    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    return get_peft_model(model, lora)


def _prompts(options: argparse.Namespace) -> list[Asked]:
    pairs = pairs_of(options.lengths, options.prompts, seed=0)
    return [Asked(f"{number}", pair.prompt) for number, pair in enumerate(pairs)]


def _weight_bytes(model: Any) -> int:
    """Bytes of the weights that a step reads; of the embedding it reads a few rows."""
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    tied = embedding.data_ptr() == head.data_ptr()
    whole = sum(int(p.numel() * p.element_size()) for p in model.parameters())
    return whole - (0 if tied else int(embedding.numel() * embedding.element_size()))


def _token_bytes(model: Any) -> int:
    """Bytes of the keys and values of one token."""
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = 2 * config.num_key_value_heads * size
    return int(config.num_hidden_layers * width * torch.finfo(model.dtype).bits // 8)


def _profile(loaded: LoadedModel, prompts: Sequence[Asked], options: argparse.Namespace) -> None:
    """Print the GPU kernels of one run of engine `continuous` by time."""
    sampling = Sampling(max_new_tokens=min(32, options.tokens))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        _by_engine(Way("continuous", 256), loaded, prompts, sampling)
    print(
        profile.key_averages().table(
            sort_by="self_cuda_time_total", row_limit=30, max_name_column_width=90
        )
    )


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _line(row: Speed) -> str:
    peak = "-" if row.peak_gib is None else f"{row.peak_gib:.1f} GiB"
    return (
        f"{row.way:13} {row.rows:4} rows {row.prompts:5} prompts {row.tokens_per_second:9,.0f} "
        f"tokens/s {row.seconds:7.1f} s {row.cpu_seconds:7.1f} s of CPU {peak:>9} "
        f"{row.limit_share:6.1%} of the limit"
    )


def _write(options: argparse.Namespace, found: Sequence[Speed], bandwidth: float) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": hardware(),
        "libraries": libraries(),
        "arguments": {key: str(value) for key, value in vars(options).items()},
        "read_bandwidth": bandwidth,
        "results": [row.model_dump(exclude={"texts"}) for row in found],
    }
    (options.out / "results.json").write_text(json.dumps(about, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__)
    parser.add_argument("--model", default="tiny", help=f"{', '.join(SHAPES)}, or a model folder")
    parser.add_argument("--way", action="append", help="NAME:ROWS[:PROMPTS]; may be repeated")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--lengths", default="real", choices=DISTRIBUTIONS)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each answer")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--nf4", action="store_true", help="four-bit weights")
    parser.add_argument("--adapter", type=int, default=0, help="rank of a LoRA on every layer")
    parser.add_argument("--fp32", action="store_true", help="fp32, even on a GPU")
    parser.add_argument("--bf16", action="store_true", help="bfloat16, even on a CPU")
    parser.add_argument("--once", action="store_true", help="measure the first run")
    parser.add_argument("--vllm", type=Path, help="interpreter of an environment with vLLM")
    parser.add_argument("--profile", action="store_true", help="list the kernels of `continuous`")
    parser.add_argument("--scratch", type=Path, default=Path("runs/benchmark-models"))
    parser.add_argument("--out", type=Path, default=Path("runs/generate"))
    return parser


if __name__ == "__main__":
    restart_like_a_step("benchmarks.generate")
    main()
