"""Trains one round on each kind of bad data, from a good model: which check of the gate stops it?

    python -m benchmarks.bad_rounds --store runs/bad-rounds [--kinds flipped noise]

The good model is SFT and one round on right labels. Each kind is a batch in the inbox of a line of
its own that starts from this model, so data preparation, training, evaluation and gate are those of
`sft-dpo round`. A batch with right labels shows that the gate keeps what it should.
A call that is stopped continues where it was.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.data.practice.source import PracticeSource
from alignment.evaluate.verdict import GateResult, Verdict
from alignment.execution.run_step import run_step
from alignment.pipeline.chain import Round
from alignment.pipeline.steps import Step
from alignment.pipeline.verdicts import each_step
from alignment.records.base import Frozen
from alignment.records.evaluation import EvalReport
from alignment.records.manifest import StageRecord
from alignment.records.text import Message, PreferencePair
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.line import RoundLine
from alignment.store.store import Store

PRACTICE = Path(__file__).parents[1] / "deployments" / "configs" / "practice.yaml"
Pairs = Sequence[PreferencePair]
Build = Callable[[Store, Step], StageRecord]


def flipped(pairs: Pairs) -> list[PreferencePair]:
    """Every label the wrong way round."""
    return [_swapped(pair) for pair in pairs]


def longer_wins(pairs: Pairs) -> list[PreferencePair]:
    """The longer reply is the chosen one, whatever it says."""
    return [
        pair if _length(pair.chosen) > _length(pair.rejected) else _swapped(pair) for pair in pairs
    ]


def noise(pairs: Pairs) -> list[PreferencePair]:
    """Half of the labels are swapped, at random."""
    draw = random.Random(0)
    return [_swapped(pair) if draw.random() < 0.5 else pair for pair in pairs]


def reworded(pairs: Pairs) -> list[PreferencePair]:
    """Flipped labels, and a word more in each prompt: data preparation drops the prompts as is."""
    return [_with_a_word_more(pair) for pair in flipped(pairs)]


class Kind(Frozen):
    """A kind of data: the part of the practice set, and what is done to its pairs."""

    part: str
    change: Callable[[Pairs], list[PreferencePair]]
    words: str

    def pairs(self, rows: int, seed: int) -> list[PreferencePair]:
        """The first rows of the part, changed."""
        source = PracticeSource.model_validate({"part": self.part, "rows": rows, "seed": seed})
        return self.change(list(source.pairs()))


KINDS = {
    "right": Kind(part="round-2", change=list, words="right labels"),
    "flipped": Kind(part="round-2", change=flipped, words="all labels flipped"),
    "longer": Kind(part="round-2", change=longer_wins, words="the longer reply always wins"),
    "noise": Kind(part="round-2", change=noise, words="labels are noise"),
    "held-out": Kind(part="held-out", change=flipped, words="held-out prompts, all labels flipped"),
    "reworded": Kind(
        part="held-out", change=reworded, words="the same with a word more in each prompt"
    ),
}


class Judged(Frozen):
    """What became of a batch: the gate's verdict and the model's evaluation, or why no round began.

    Attributes:
        verdict, evaluation: None if no round was trained.
        message: the outcome as a sentence.
        champion: evaluation of the line's champion afterwards.
    """

    verdict: Verdict | None
    evaluation: EvalReport | None
    message: str
    champion: EvalReport

    @property
    def stopped_by(self) -> tuple[str, ...]:
        """The names of the checks that the gate's word rests on; none if the round is kept."""
        if self.verdict is None or self.verdict.kept:
            return ()
        found = self.verdict.finding
        return tuple(check.name for check in self.verdict.checks if check.finding == found)


def train_on(
    pairs: Pairs, config: PipelineConfig, *, batch: str = "batch", build: Build = run_step
) -> Judged:
    """One round of the config's line on these pairs.

    Args:
        pairs: the new batch.
        config: with an inbox.
        batch: name of the batch's file, without its ending.
        build: builds a step, or gives its record if it is built already.
    """
    assert config.inbox is not None
    store, rounds = config.open_store(), list[Round]()
    line = RoundLine(store=store, name=config.inbox.line)
    write_pairs(Path(config.inbox.path) / f"{batch}.jsonl", pairs)
    hooks = Hooks(
        run_chain=lambda: [build(store, step) for step in each_step(config, store)],
        build=lambda step: build(store, step),
        report=rounds.append,
    )
    done = RoundDriver(config, line, hooks).run()
    assert done.state.champion is not None
    gate = rounds[0].gate if rounds else None
    return Judged(
        verdict=GateResult.model_validate(store.open(gate.key).output).verdict if gate else None,
        evaluation=_evaluation(store, rounds[0].evaluate.key) if rounds else None,
        message=done.message,
        champion=_evaluation(store, done.state.champion.evaluation),
    )


def practice(store: Path, kind: str, *, held_out: int) -> PipelineConfig:
    """The practice preset with one round, an anchored gate, and an inbox for this kind."""
    config = load(PRACTICE).model_dump(mode="json")
    source = {"name": "practice", "part": "held-out", "rows": held_out}
    data = {"sources": [source], "min_rows": 0}
    config["evaluation"] |= {"data": data, "pairs": held_out, "prompts": 168}
    changed = {
        "store": str(store),
        "rounds": config["rounds"][:1],
        "control": None,
        "gate": {"name": "anchored", "margin": 0.1, "rounds": 5},
        "inbox": config["inbox"]
        | {"path": str(store / "inbox" / kind), "line": kind, "settle_seconds": 0},
    }
    return PipelineConfig.model_validate(config | changed)


def row(words: str, judged: Judged) -> str:
    """The outcome of one kind of data as a row of a table in Markdown."""
    if judged.verdict is None or judged.evaluation is None:
        return f"| {words} | no round | {judged.message} | | | | |"
    found = judged.evaluation.overall
    numbers = " | ".join(
        f"{found[name].value:.{digits}f}" if name in found else ""
        for name, digits in (
            ("preference_accuracy", 3),
            ("pass_rate", 3),
            ("reply_tokens", 1),
            ("nll", 2),
        )
    )
    return f"| {words} | {judged.verdict.word} | {', '.join(judged.stopped_by)} | {numbers} |"


def main() -> None:
    """Train a round on each kind, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--store", type=Path, required=True, help="where the models go")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--held-out", type=int, default=600, help="held-out pairs")
    parser.add_argument("--rows", type=int, default=128, help="pairs of a batch")
    options = parser.parse_args()
    print("| Batch | Verdict | Stopped by | Preference acc. | Pass rate | Reply tokens | NLL |")
    print("|---|---|---|---:|---:|---:|---:|")
    for name in options.kinds:
        config = practice(options.store.absolute(), name, held_out=options.held_out)
        judged = train_on(KINDS[name].pairs(options.rows, config.seed), config)
        print(row(KINDS[name].words, judged), flush=True)


def _evaluation(store: Store, key: str) -> EvalReport:
    return EvalReport.model_validate(store.open(key).output)


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs as a file of data or a batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(_line(pair) for pair in pairs), encoding="utf-8")


def _line(pair: PreferencePair) -> str:
    return pair.model_dump_json(include={"prompt", "chosen", "rejected", "task_type"}) + "\n"


def _length(reply: Sequence[Message]) -> int:
    return sum(len(message.text) for message in reply)


def _swapped(pair: PreferencePair) -> PreferencePair:
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})


def _with_a_word_more(pair: PreferencePair) -> PreferencePair:
    *before, last = pair.prompt
    last = last.model_copy(update={"content": f"{last.content} Please."})
    return pair.model_copy(update={"prompt": (*before, last)})


if __name__ == "__main__":
    main()
