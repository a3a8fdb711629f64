"""Measures rows per second and peak memory of preparing preference pairs, with near duplicates.

    python benchmarks/data_scale.py --rows 100000 --tokenizer FOLDER

First generates the rows: prompts of the practice set followed by slices of this repository's own
prose, 1.6 kB each, including 2 % near duplicates, 1 % duplicates and 1 % broken lines. With --work,
the same call resumes a run that was killed. It uses the cores that it may: `taskset -c 0` for one.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.data.build.prepare import prepare_pairs
from alignment.data.build.settings import Lengths, PairSetConfig
from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import FileSource
from flows.display import counting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Generate the rows, prepare them, and print one row of a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--tokenizer", required=True, help="folder or id of a chat tokenizer")
    parser.add_argument("--work", type=Path, help="folder for the rows; default: a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        path = work / f"pairs-{given.rows}.jsonl"
        if not path.exists():
            write(path, given.rows)
        show(path, given.rows, given.tokenizer, work)


def show(path: Path, rows: int, tokenizer: str, work: Path) -> None:
    """Prepare a file, and print time and memory."""
    out = work / f"out-{rows}"
    out.mkdir(exist_ok=True)
    encoder = chat_tokenizer(tokenizer)
    began = time.monotonic()
    with counting() as on_progress:
        prepared = prepare_pairs(
            PairSetConfig(
                sources=(FileSource(path=str(path)),), near_duplicates=0.9, max_malformed_share=0.05
            ),
            lengths=Lengths(prompt=2048, whole=4096, reply=16),
            tokenizer=encoder,
            earlier={},
            seed=0,
            out=out,
            on_progress=on_progress,
        )
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    helper = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    reference = prepared.ref
    print(
        f"| {rows:,} | {path.stat().st_size / 1e6:,.0f} MB | {seconds:,.0f} s | "
        f"{rows / seconds:,.0f} | {peak:,.0f} MB, each process {helper:,.0f} | "
        f"kept {reference.kept}, held out {reference.held}, {dict(reference.quarantined)}"
    )


def chat_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer, with Qwen2.5's chat template if it has none."""
    from transformers import AutoTokenizer
    from trl.chat_template_utils import qwen2_5_chat_template

    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    tokenizer.chat_template = tokenizer.chat_template or qwen2_5_chat_template
    return tokenizer


def write(path: Path, rows: int) -> None:
    """Write this many lines, some of them faulty."""
    draw = random.Random(0)
    pairs = cycle(list(PracticeSource(part="sft", rows=2_000, seed=0).pairs()))
    text = " ".join(file.read_text() for file in sorted(ROOT.glob("docs/*.md")))
    words = [word for word in text.split() if word.strip(".,;()").isalpha()]

    def prose(count: int) -> str:
        start = draw.randrange(len(words) - count)
        slice_ = words[start : start + count]
        for at in range(0, count, 7):
            slice_[at] = draw.choice(words)
        return " ".join(slice_)

    def lines() -> Iterator[str]:
        before: dict[str, str] = {}
        for number, pair in enumerate(pairs):
            chance = draw.random()
            if chance < 0.01 and before:
                yield json.dumps(before)
            elif chance < 0.03 and before:
                yield json.dumps({**before, "chosen": before["chosen"] + " indeed"})
            elif chance < 0.04:
                yield '{"prompt": "cut'
            else:
                before = {
                    "prompt": f"{number}. {pair.prompt[-1].content}\n\n{prose(80)}",
                    "chosen": f"{pair.chosen[0].content} {prose(100)}",
                    "rejected": f"{pair.rejected[0].content} {prose(80)}",
                }
                yield json.dumps(before)

    with path.open("w") as file:
        file.writelines(line + "\n" for line in islice(lines(), rows))


if __name__ == "__main__":
    main()
