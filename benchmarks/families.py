"""What works with the models of each family, on tiny random ones: the table of docs/models.md.

    python -m benchmarks.families
    python -m benchmarks.families gemma3 qwen3-moe

Each model goes through the run's own steps: SFT, a handover, a round of DPO, evaluation, export.
Nothing is downloaded. All models are under one small tokenizer with ChatML: chat templates are
another matter.
"""

import argparse
import contextlib
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignment.compose.export import Form, export
from alignment.compose.handover import Destination, compose_model
from alignment.compose.settings import Stack
from alignment.config.pipeline import PipelineConfig
from alignment.errors import AlignmentError
from alignment.execution.run_step import build
from alignment.models.experts import expert_tensors
from alignment.models.rope import rope_limit
from alignment.models.targets import WHOLE
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.trial import refuse_obstacles, try_model
from alignment.records.manifest import StageRecord
from alignment.records.refs import AdapterRef, ModelRef
from alignment.scoring.engine import Packed, Stock
from alignment.scoring.logprobs import Completion
from alignment.scoring.packable import packing_obstacle
from alignment.scoring.probe import probe_of
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.tiny_models import ALL, VISION, config_of, tiny_model

COLUMNS = (
    "Family",
    "default targets",
    "blocks covered",
    "stock = logits",
    "packed = logits",
    "SFT",
    "merge",
    "DPO",
    "stack",
    "evaluation",
    "merged / adapter / GGUF",
)
FORMS: tuple[Form, ...] = ("merged", "adapter", "gguf")
EXACT = 1e-5
"""Largest difference of a log-prob that counts as equal, in nats."""

Row = dict[str, str]


def measure(family: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Row:
    """One row of the table: `ok`, `R` if refused before any work, `L` later, `X` if it crashed."""
    row = {"Family": family}
    try:
        write_model(family, tokenizer, folder / "model")
    except (ValueError, AssertionError) as error:
        return {**row, "SFT": f"X {type(error).__name__}"}
    if family not in VISION or VISION[family][0] != "mistral3":
        row |= _scores(family, len(tokenizer))
    row["default targets"] = _cell(lambda: _try(settings(folder, family, all_linear=False)))
    config = settings(folder, family, all_linear=True)
    row["blocks covered"] = _cell(lambda: _try(config))
    if row["blocks covered"].startswith("R"):
        return row
    return row | _steps(config, folder)


def write_model(family: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tiny model as its publisher would, a picture encoder included, and its tokenizer."""
    ids = ids_of_ends(tokenizer)
    if family in VISION:
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(
            config_of(family, vocab_size=len(tokenizer), **ids)
        )
    else:
        model = tiny_model(family, vocab_size=len(tokenizer), **ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ids_of_ends(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The ids of a model's config that are its tokenizer's."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def settings(folder: Path, family: str, *, all_linear: bool) -> PipelineConfig:
    """A whole run with one round on the model in a folder, in a store beside it."""
    vision_text = config_of(family).get_text_config()
    engine = {"name": "stock" if packing_obstacle(vision_text) else "packed"}
    experts = all_linear and bool(expert_tensors(_blank(family)))
    lora = {"r": 4, "alpha": 8, "dropout": 0.0 if experts else 0.05}
    training = {
        "lora": {**lora, "target_modules": "all-linear"} if all_linear else lora,
        "learning_rate": 1e-3,
        "batch": {"per_device": 4, "accumulation": 1},
        "engine": engine,
        "max_length": 256,
        "max_steps": 2,
        "bf16": False,
        "gradient_checkpointing": True,
        "samples": 1,
        "sample_tokens": 4,
    }
    held_out = {"sources": [{"name": "practice", "part": "held-out", "rows": 6}], "min_rows": 0}
    return PipelineConfig.model_validate(
        {
            "name": family.replace(".", "-"),
            "store": str(folder / "store"),
            "model": {"name": "folder", "path": str(folder / "model")},
            "quantisation": None,
            "sft": {
                "name": "train",
                "data": {"sources": [{"name": "practice", "part": "sft", "rows": 8}]},
                "training": training,
            },
            "dpo": {**training, "max_prompt_length": 200},
            "rounds": [{"data": {"sources": [{"name": "practice", "part": "round-1", "rows": 8}]}}],
            "compose": {"name": "merge", "dtype": "float32"},
            "evaluation": {
                "data": held_out,
                "dtype": "float32",
                "engine": engine,
                "max_new_tokens": 4,
                "max_length": 256,
            },
        }
    )


def _blank(family: str) -> PreTrainedModel:
    """The text model of a family, without weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config_of(family).get_text_config()
        )
    return model


def _scores(family: str, vocabulary: int) -> Row:
    """Both engines' log-probs beside the model's own logits, one row at a time."""
    model: Any = tiny_model(family, vocab_size=vocabulary)
    generator = torch.Generator().manual_seed(0)
    sizes = [(5, 9), (5, 20), (12, 3), (2, 24)]
    ids = [torch.randint(3, 500, (a + b,), generator=generator).tolist() for a, b in sizes]
    rows = [
        Completion(tuple(row[:a]), tuple(row[a:])) for row, (a, _) in zip(ids, sizes, strict=True)
    ]
    rows[1] = Completion(rows[0].prompt, rows[1].reply)  # two replies to one prompt
    limit = rope_limit(model.config)
    rows = [row for row in rows if limit is None or row.length <= limit]
    true = [_own(model, row) for row in rows]

    def gap(engine: Stock | Packed) -> str:
        found = engine.reply_logprobs(model, rows, batch=2)
        worst = max(float((a - b).abs().max()) for a, b in zip(found, true, strict=True))
        return "ok" if worst <= EXACT else f"W {worst:.1g}"

    packs = packing_obstacle(model.config)
    return {
        "stock = logits": gap(Stock()),
        "packed = logits": "R" if packs else gap(Packed(tokens_per_micro_batch=40)),
    }


def _own(model: Any, row: Completion) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.prompt + row.reply]), use_cache=False).logits
    full = logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
    found: torch.Tensor = full.gather(1, torch.tensor(row.reply)[:, None])[:, 0]
    return found


def _try(config: PipelineConfig) -> str:
    trial = try_model(chain(config).steps(), Path(config.model.path))  # type: ignore[union-attr]
    refuse_obstacles(trial)
    least = min(each.covered for each in trial.adapted)
    return "ok" if least.share >= WHOLE else f"ok but {', '.join(least.left)}"


def _steps(config: PipelineConfig, folder: Path) -> Row:
    """The cells of the steps of a run, as far as they get."""
    store, steps = config.open_store(), chain(config)
    row: Row = {}
    records: dict[str, StageRecord] = {}
    columns = {"sft": "SFT", "merge": "merge", "dpo": "DPO", "evaluate": "evaluation"}
    for step in steps.steps():
        try:
            records[step.name] = build(store, step, Progress())
        except Exception as error:  # whatever a family does is what the table reports
            logging.getLogger(__name__).warning("%s: %r", step.name, error)
            kind = "L" if isinstance(error, AlignmentError) else "X"
            return {**row, columns.get(step.stage, "SFT"): f"{kind} {type(error).__name__}"}
        if step.stage in columns:
            row[columns[step.stage]] = "ok"
    row["stack"] = _cell(lambda: _stack(store, steps, records, folder / "stack"))
    last = records[steps.rounds[-1].handover.name]
    exports = [_cell(_exporting(store, last, folder, form), late="R") for form in FORMS]
    return {**row, COLUMNS[-1]: " / ".join(exports)}


def _stack(store: Store, steps: Chain, records: Mapping[str, StageRecord], folder: Path) -> str:
    base = ModelRef.model_validate(records[steps.base.name].output)
    adapter = AdapterRef.model_validate(records["sft"].output)
    trained = base.model_copy(update={"adapters": (adapter,)})
    destination = Destination(store, folder, "folder:" + str(folder), "float32", Progress())
    probe = probe_of(store, adapter)
    compose_model(trained, Stack(max_gap=EXACT), probe=probe, destination=destination)
    return "ok"


def _exporting(store: Store, record: StageRecord, folder: Path, form: Form) -> Callable[[], str]:
    def run() -> str:
        done = export(store, record, folder / form, form=form)
        gap = (done.from_measured or done.from_trained or {}).get("mean_abs_logprob", math.inf)
        limit = 1e-3 if done.dtype in (None, "float32") else 0.1
        return "ok" if gap <= limit else f"W {gap:.1g}"

    return run


def _cell(run: Callable[[], str], *, late: str = "R") -> str:
    try:
        return run()
    except AlignmentError as error:
        logging.getLogger(__name__).warning("%s", error)
        return late
    except Exception as error:  # whatever a family does is what the table reports
        logging.getLogger(__name__).warning("%r", error)
        return f"X {type(error).__name__}"


def table(rows: Iterator[Row], columns: Sequence[str] = COLUMNS) -> Iterator[str]:
    """The rows as lines of Markdown."""
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield "| " + " | ".join(row.get(column, "-") for column in columns) + " |"


def rows_of(families: list[str]) -> Iterator[Row]:
    """The row of each family, one after another."""
    from tests.tiny import tokenizer

    make: Callable[[], PreTrainedTokenizerBase] = tokenizer
    for family in families:
        # trainers print their logs
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            row = measure(family, make(), Path(folder))
        yield row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("families", nargs="*", default=list(ALL))
    chosen = parser.parse_args().families
    warnings.simplefilter("ignore")
    for line in table(rows_of(chosen)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
