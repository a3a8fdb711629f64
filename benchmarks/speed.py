"""Compares both engines on the same rows, phase by phase: a table, results.json and speed.png.

    python -m benchmarks.speed --model 7b --lengths real --out speed-7b
    python -m benchmarks.speed --model 7b --phase dpo --engine packed:compile=true,recompute=0
    python -m benchmarks.speed --model 7b --batch 2x32 --devices 1,2 --engine packed:compile=true

Without `--engine`, stock and then packed are measured, and packed alone on several devices. On a
GPU the defaults are those of the reference recipe: NF4, bfloat16, checkpointing, 2 x 8 rows per
step; on a CPU, fp32 without NF4 and checkpointing. `--devices` measures in one process per device,
for each of these numbers of devices. `--profile` also lists the GPU kernels of the measured
training steps by time.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import TypeAdapter

from alignment.records.text import PreferencePair
from alignment.scoring.engine import Engine, StepRows
from alignment.store.jsonl import read_rows
from benchmarks.like_a_step import restart_like_a_step
from benchmarks.phases import Measured, Phase, Setup, limit_gpu, matmul_limit, measure
from benchmarks.workload import DISTRIBUTIONS, SHAPES, pairs_of, write_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARED: tuple[Phase, ...] = ("sft", "dpo", "reference", "scoring")
SHARED: tuple[Phase, ...] = ("sft", "dpo", "scoring", "answering")
"""The phases that are measured if none is named: of two engines, and on several devices."""
LIBRARIES = ("torch", "transformers", "trl", "peft")


def main(arguments: Sequence[str] | None = None) -> list[Measured]:
    """Measure the phases and engines; print the results and write them to `--out`."""
    options = _parser().parse_args(arguments)
    setup = _setup(options)
    limit = matmul_limit(bf16=setup.bf16)
    print(f"matmul limit of this device: {limit / 1e12:.2f} TFLOP/s")
    found: list[Measured] = []
    for row in _measured(options, setup, limit):
        found.append(row)
        print(_row(row), *row.kernels, sep="\n    ", flush=True)
        _write(options.out, options, found, limit)
    print(*scaling(found), sep="\n")
    return found


def _measured(options: argparse.Namespace, setup: Setup, limit: float) -> Iterator[Measured]:
    for phase in options.phase or (SHARED if options.devices else COMPARED):
        pairs = _pairs(options, setup)
        for engine in _engines(options):
            if options.devices:
                yield from _on_devices(options, phase, engine, setup, pairs)
            else:
                limit_gpu(options.gpu_memory_gib)
                yield measure(phase, engine, setup, pairs, limit=limit)


def _on_devices(
    options: argparse.Namespace,
    phase: Phase,
    engine: Engine,
    setup: Setup,
    pairs: Sequence[PreferencePair],
) -> Iterator[Measured]:
    import torch

    from benchmarks.ranks import measure_on

    torch.cuda.empty_cache()  # this process wrote the model, and measures nothing
    cuda = torch.cuda.is_available()
    for count in options.devices:
        yield measure_on(
            count, phase, engine, setup, pairs, cuda=cuda, memory_gib=options.gpu_memory_gib
        )


def scaling(found: Sequence[Measured]) -> list[str]:
    """How much faster several devices are than one, and how much memory each needs."""
    lines = []
    for row in found:
        one = next((one for one in found if _same_work(one, row) and one.devices == 1), None)
        if one is None or row.devices == 1:
            continue
        line = f"{row.phase}, {row.devices} devices: {one.seconds / row.seconds:.2f} x one"
        if row.peak_gib and one.peak_gib:
            line += f", memory of each {row.peak_gib / one.peak_gib:.2f} x"
        lines.append(line)
    return lines


def _same_work(one: Measured, other: Measured) -> bool:
    return one.phase == other.phase and one.engine == other.engine


def figure(found: Sequence[Measured]) -> "Figure":
    """A bar chart of tokens per second, with a group per phase and a colour per engine."""
    from matplotlib.figure import Figure

    engines = list(dict.fromkeys(_name(row) for row in found))
    phases = list(dict.fromkeys(row.phase for row in found))
    drawn = Figure(figsize=(7, 3.5), layout="constrained")
    axes = drawn.subplots()
    for at, engine in enumerate(engines):
        rows = [row for row in found if _name(row) == engine]
        places = [phases.index(row.phase) + at / (len(engines) + 1) for row in rows]
        bars = axes.bar(
            places,
            [row.tokens_per_second for row in rows],
            width=0.9 / (len(engines) + 1),
            label=engine,
        )
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    axes.set_xticks([i + (len(engines) - 1) / 2 / (len(engines) + 1) for i in range(len(phases))])
    axes.set_xticklabels(phases)
    axes.set_ylabel("tokens per second")
    axes.legend(frameon=False, fontsize=8)
    return drawn


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--model", default="tiny", help=f"{', '.join(SHAPES)}, or a model folder")
    parser.add_argument("--lengths", default="real", choices=DISTRIBUTIONS)
    parser.add_argument("--data", type=Path, help="pairs prepared by sft-dpo (JSON Lines)")
    parser.add_argument(
        "--devices",
        type=lambda text: [int(count) for count in text.split(",")],
        help="numbers of devices to work on, such as 1,2",
    )
    parser.add_argument("--phase", action="append", choices=get_args(Phase))
    parser.add_argument("--engine", action="append", help="stock, packed[:field=value,...]")
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    parser.add_argument("--batch", default="2x8", help="rows per pass x passes per step")
    parser.add_argument("--fp32", action="store_true", help="fp32 without NF4, even on a GPU")
    parser.add_argument("--bf16", action="store_true", help="bfloat16, even on a CPU")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--gpu-memory-gib", type=float, help="GPU memory limit")
    parser.add_argument(
        "--profile", action="store_true", help="profile the GPU kernels of the measured steps"
    )
    parser.add_argument("--scratch", type=Path, default=Path("runs/benchmark-models"))
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    return parser


def _setup(options: argparse.Namespace) -> Setup:
    import torch

    cuda = torch.cuda.is_available()
    per_device, accumulation = map(int, options.batch.split("x"))
    shape = options.model in SHAPES
    folder = (
        write_model(options.model, options.scratch / options.model)
        if shape
        else Path(options.model)
    )
    return Setup(
        model=folder,
        bf16=options.bf16 or (cuda and not options.fp32),
        nf4=cuda and not options.fp32,
        checkpointing=cuda and not options.no_checkpointing,
        batch=StepRows(per_device=per_device, accumulation=accumulation),
        steps=options.steps,
        warm_up=options.warm_up,
        profile=options.profile and cuda,
    )


def _pairs(options: argparse.Namespace, setup: Setup) -> list[PreferencePair]:
    count = (setup.steps + setup.warm_up) * setup.batch.effective
    if options.data is None:
        return list(pairs_of(options.lengths, count, seed=0))
    rows = list(read_rows(options.data, PreferencePair))
    return [rows[i % len(rows)] for i in range(count)]


def _engines(options: argparse.Namespace) -> list[Engine]:
    adapter: TypeAdapter[Engine] = TypeAdapter(Engine)
    usual = ("packed",) if options.devices else ("stock", "packed")
    named = [text.partition(":") for text in options.engine or usual]
    return [
        adapter.validate_python(
            {"name": name, **dict(pair.split("=", 1) for pair in fields.split(",") if pair)}
        )
        for name, _, fields in named
    ]


def _name(row: Measured) -> str:
    """The engine's name, its non-default settings, and the number of devices if several."""
    default = TypeAdapter(Engine).validate_python({"name": row.engine["name"]}).model_dump()
    changed = [f"{key}={value}" for key, value in row.engine.items() if value != default[key]]
    several = [f"on {row.devices}"] if row.devices > 1 else []
    return " ".join([row.engine["name"], *changed, *several])


def _chosen(row: Measured) -> str:
    """The engine's own choices."""
    return ", ".join(f"{name} {value:g}" for name, value in row.chosen.items())


def _row(row: Measured) -> str:
    peak = "-" if row.peak_gib is None else f"{row.peak_gib:.1f} GiB"
    return (
        f"{row.phase:8} {_name(row):40} {row.tokens_per_second:10,.0f} tokens/s "
        f"{row.rows_per_second:8.2f} rows/s {peak:>10} {row.limit_share:7.1%} of the limit  "
        f"{_chosen(row)}"
    )


def _write(out: Path, options: argparse.Namespace, found: Sequence[Measured], limit: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "machine": _machine(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "arguments": {key: str(value) for key, value in vars(options).items()},
        "matmul_limit": limit,
    }
    results = [row.model_dump() for row in found]
    (out / "results.json").write_text(json.dumps({**about, "results": results}, indent=2))
    if find_spec("matplotlib") is None:
        print("matplotlib is not installed: no speed.png")
        return
    figure(found).savefig(out / "speed.png", dpi=120)


def _machine() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    restart_like_a_step("benchmarks.speed")
    main()
