"""Do both engines answer alike? Greedy answers to prompts of the practice set, row by row.

    python -m benchmarks.same_answers --model FOLDER [--prompts 128] [--tokens 64] [--fp32]

Prints the share of equal answers, and for comparison that of engine `hf` with itself in batches of
another size. Of each other answer: where they part, and by how much the model prefers the token of
`hf` there, in nats. Where this is a rounding step of the logits or less, the batch decides.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from alignment.answers.ask import own_settings
from alignment.answers.continuous import write_continuous
from alignment.answers.padded import write_padded
from alignment.answers.request import Request, Written
from alignment.answers.settings import Sampling
from alignment.data.practice.source import PracticeSource
from alignment.models.chat_template import render
from alignment.models.load import LoadedModel
from alignment.models.stopping import stop_ids
from benchmarks.workload import load

BATCH = 16
Ids = dict[str, list[int]]
"""The ids of the answer to each prompt, with the stop token."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer with both engines, and print what differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_answers", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--fp32", action="store_true", help="instead of bfloat16")
    options = parser.parse_args(arguments)
    loaded = load(options.model, dtype="float32" if options.fp32 else "bfloat16", quantisation=None)
    asked = requests(loaded, options.prompts)
    padded, continuous, again = written(loaded, asked, options.tokens)
    print(f"hf and continuous: {equal(padded, continuous)}")
    print(f"hf in batches of {BATCH} and of {BATCH // 4}: {equal(padded, again)}")
    for row in asked:
        if padded[row.prompt_id] != continuous[row.prompt_id]:
            print(parting(loaded, row, padded[row.prompt_id], continuous[row.prompt_id]))
    return 0


def equal(one: Ids, other: Ids) -> str:
    """How many answers are equal."""
    count = sum(one[name] == other[name] for name in one)
    return f"{count} of {len(one)} answers are equal ({count / len(one):.1%})"


def requests(loaded: LoadedModel, count: int) -> list[Request]:
    """One request for each prompt."""
    prompts = PracticeSource(part="held-out", rows=count, seed=0).prompts()
    ids = [(p.id, render(loaded.tokenizer, p.prompt, add_generation_prompt=True)) for p in prompts]
    return [Request(name, 0, tuple(rendered), seed=0) for name, rendered in ids]


@torch.no_grad()
def written(loaded: LoadedModel, asked: Sequence[Request], tokens: int) -> tuple[Ids, Ids, Ids]:
    """The answers of `hf`, of `continuous`, and of `hf` in smaller batches, by prompt."""
    sampling = Sampling(max_new_tokens=tokens)
    model: Any = loaded.model.eval()
    pad: Any = loaded.tokenizer.pad_token_id
    with own_settings(model) as theirs:
        stops = stop_ids(loaded.tokenizer, theirs.eos_token_id)
        whole, small = (
            write_padded(model, asked, stops=stops, pad=pad, sampling=sampling, batch=batch)
            for batch in (BATCH, BATCH // 4)
        )
        other = write_continuous(model, asked, stops=stops, sampling=sampling, rows=len(asked))
        return _ids(whole, stops[0]), _ids(other, stops[0]), _ids(small, stops[0])


def _ids(rows: Iterable[Written], stop: int) -> Ids:
    return {row.request.prompt_id: [*row.tokens, *[stop] * row.stopped] for row in rows}


@torch.no_grad()
def parting(
    loaded: LoadedModel, asked: Request, padded: Sequence[int], continuous: Sequence[int]
) -> str:
    """Where two answers part, and what the model thinks of both tokens there."""
    at = next(n for n, pair in enumerate(zip(padded, continuous, strict=False)) if len({*pair}) > 1)
    ids = torch.tensor([[*asked.ids, *padded[:at]]], device=loaded.model.device)
    logprobs = loaded.model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
    one, other = padded[at], continuous[at]
    texts = [repr(loaded.tokenizer.decode([index])) for index in (one, other)]
    gap = float(logprobs[one] - logprobs[other])
    return f"prompt {asked.prompt_id}, token {at}: {texts[0]} - {texts[1]} = {gap:+.4f}"


if __name__ == "__main__":
    sys.exit(main())
