"""Writes GSM8K as a configuration for `benchmarks.onpolicy`, and scores answers by their number.

    python -m benchmarks.gsm8k DATA OUT --model FOLDER
    python -m benchmarks.onpolicy --config OUT/gsm8k.yaml --store RUNS --label "$(cat OUT/label)"

DATA holds `train.jsonl` and `example_model_solutions.jsonl` of openai/grade-school-math. The pairs
are a right and a wrong solution that GPT-3 wrote to a question of the test set, so SFT and
evaluation use other questions, of the training set.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from alignment.data.verifiers import LastNumber

Row = dict[str, Any]
SFT_ROWS, HELD_OUT, ROUNDS = 2048, 500, 3
CALCULATOR = re.compile(r"<<[^<>]*>>")
"""Marks by which a calculator was called: not part of the text."""
CONFIG = """\
name: gsm8k
model: {{name: folder, path: {model}}}
quantisation: null
sft:
  name: train
  data: {{sources: [{{name: file, path: {out}/sft.jsonl}}], held_out_share: 0.0}}
  training: &training
    lora: {{r: 16, alpha: 32, dropout: 0.0}}
    learning_rate: 1.0e-3
    batch: {{per_device: 16, accumulation: 1}}
    engine: {{name: packed}}
    epochs: 1
    max_length: 640
    gradient_checkpointing: false
    samples: 0
dpo:
  <<: *training
  learning_rate: 2.0e-4
  max_prompt_length: 320
rounds:
{rounds}
gate: null
evaluation:
  data: {{sources: [{{name: file, path: {out}/pairs-held-out.jsonl}}], min_rows: 0}}
  suites: [{{name: file, path: {out}/questions.jsonl}}]
  prompts: 8
  max_new_tokens: 256
  max_length: 640
  batch: 128
"""
LABEL = {"name": "verifier", "check": {"name": "function", "entry": "benchmarks.gsm8k:score"}}
ROUND = (
    "  - data: {{sources: [{{name: file, path: {out}/pairs-{number}.jsonl}}], held_out_share: 0.0}}"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sets and the configuration."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gsm8k", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    write_sets(options.data, options.out)
    rounds = "\n".join(ROUND.format(out=options.out, number=n + 1) for n in range(ROUNDS))
    text = CONFIG.format(out=options.out, model=options.model, rounds=rounds)
    (options.out / "gsm8k.yaml").write_text(text, encoding="utf-8")
    (options.out / "label").write_text(json.dumps(LABEL), encoding="utf-8")
    return 0


def write_sets(data: Path, out: Path) -> None:
    """Write the questions of SFT and evaluation, and the pairs of each round."""
    solved = [_solved(row) for row in _read(data / "train.jsonl")[: SFT_ROWS + HELD_OUT]]
    _write(out / "sft.jsonl", solved[HELD_OUT:])
    _write(out / "questions.jsonl", map(_question, solved[:HELD_OUT]))
    pairs = [pair for row in _read(data / "example_model_solutions.jsonl") if (pair := _pair(row))]
    _write(out / "pairs-held-out.jsonl", pairs[: ROUNDS * 10])
    for number in range(ROUNDS):
        _write(out / f"pairs-{number + 1}.jsonl", pairs[ROUNDS * 10 + number :: ROUNDS])


def score(prompt: object, answer: str, reference: str) -> bool:
    """Whether the last number of an answer is that of the reference."""
    del prompt
    return LastNumber(number=last_number(reference))(answer)


def last_number(text: str) -> float:
    """The last number of a solution."""
    return float(Decimal(re.findall(r"-?\d[\d,]*\.?\d*", text)[-1].rstrip(".").replace(",", "")))


def _solved(row: Row) -> Row:
    """A question with its solution."""
    solution, number = CALCULATOR.sub("", row["answer"]).split("#### ")
    return {"prompt": row["question"], "completion": f"{solution}A: {number}"}


def _question(row: Row) -> Row:
    number = last_number(row["completion"])
    return {"prompt": row["prompt"], "verifier": {"name": "last_number", "number": number}}


def _pair(row: Row) -> Row | None:
    """A right and a wrong solution, the first of each; None if there are not both."""
    solutions = [one for one in row.values() if isinstance(one, dict)]
    texts = {one["is_correct"]: CALCULATOR.sub("", one["solution"]) for one in reversed(solutions)}
    if len(texts) < 2:
        return None
    return {"prompt": row["question"], "chosen": texts[True], "rejected": texts[False]}


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
