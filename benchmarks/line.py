"""A line of rounds that each lose a little, under both gates, on a real model of 38,000 parameters.

    python -m benchmarks.line --store runs/line [--rounds 12]

The line begins with a model that one round on right labels has made. Each further round trains on
new pairs with flipped labels at a low learning rate, so that it loses too little to be shown on the
held-out pairs. Data preparation, training, evaluation, gates and ledger are those of
`sft-dpo round`; only the steps run in this process. Not here: lines without a model (`gate.py`).
"""

import argparse
import contextlib
import logging
import sys
from pathlib import Path

from alignment.evaluate.settings import AnchoredGate, GateConfig, PlainGate
from alignment.execution.run_step import build
from alignment.pipeline.steps import Step
from alignment.records.manifest import StageRecord
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.bad_rounds import Judged, flipped, train_on
from benchmarks.words import pairs_of, settings

WIDE = {
    "max_length_ratio": 100.0,
    "max_stop_drop": 1.0,
    "max_nll_rise": 100.0,
    "max_kl_rise": 100.0,
    "max_repetition_rise": 1.0,
}
"""Budgets that never decide: so small a model breaks them with every round, good or bad."""
GATES: dict[str, GateConfig] = {
    "plain": PlainGate(max_length_growth=100.0, max_stop_drop=1.0),
    "anchored": AnchoredGate.model_validate({"rounds": 12, **WIDE}),
}
ACCURACY = "preference_accuracy"
ROWS = 75
"""Pairs of a batch."""


def main() -> None:
    """Run a line under each gate, and print a row for each round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--store", type=Path, required=True, help="where models and batches go")
    parser.add_argument("--gates", nargs="+", default=list(GATES), choices=GATES)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=8e-3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| Gate | Round | Its accuracy | Verdict | Champion's accuracy after it |")
    print("|---|---|---:|---|---:|")
    for gate in options.gates:
        config = settings(
            options.store.absolute(),
            gate,
            GATES[gate],
            held_out=options.held_out,
            learning_rate=options.learning_rate,
        )
        for number in range(options.rounds):
            pairs = flipped(pairs_of(f"batch {number}", ROWS))
            judged = train_on(pairs, config, batch=f"batch-{number:02d}", build=build_here)
            print(f"| {gate} | {number + 1} | {row(judged)} |", flush=True)


def row(judged: Judged) -> str:
    """Accuracy of a round's model, the verdict, and the accuracy of the champion after it."""
    assert judged.verdict is not None
    assert judged.evaluation is not None
    accuracy, champion = (
        report.overall[ACCURACY].value for report in (judged.evaluation, judged.champion)
    )
    return f"{accuracy:.3f} | {judged.verdict.word} | {champion:.3f}"


def build_here(store: Store, step: Step) -> StageRecord:
    """Build a step in this process, which saves starting one for a model this small."""
    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints what it logs
        return store.reuse(step.key) or build(store, step, Progress())


if __name__ == "__main__":
    main()
