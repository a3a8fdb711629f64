"""Do rounds on the model's own answers pay? Three arms after the same SFT.

    python -m benchmarks.onpolicy --store runs/onpolicy [--seeds 0 1 2] [--set KEY=VALUE ...]

own: the configuration's rounds, on answers of the current model to the prompts of their pairs.
fixed: the same rounds on the pairs themselves, as many pairs and steps in each round.
one-shot: one DPO of TRL's own trainer on all pairs of `fixed`, as many steps as its rounds.
No gate decides, so every round counts. The tables are printed and written to STORE/onpolicy.md.
Pass rates are of greedy replies to held-out prompts. After a kill, the same command goes on; what
STORE/onpolicy.jsonl has of other seeds, perhaps from another machine, is added with `--found`.
The practice set is the default, where SFT must be on less flawed replies for the model's own
answers to differ (docs/own-answers.md); `python -m benchmarks.gsm8k` prepares GSM8K.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignment.candidates.settings import OwnAnswers
from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig, RoundData
from alignment.data.practice.source import PracticeSource
from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.intervals import PairedDifference, paired_means
from alignment.execution.run_step import run_step
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.records.base import Frozen
from alignment.records.evaluation import EvalReport
from alignment.records.refs import DataRef
from alignment.report.gates import rows_of
from alignment.store.jsonl import as_line, read_rows
from alignment.store.store import Store

START = time.monotonic()
ARMS = ("own", "fixed", "one-shot")
METRICS = {
    "pass_rate": "held-out prompts",
    "pass_rate_seen": "phrasings seen in training",
    "pass_rate_unseen": "unseen phrasings",
    "suite_score": "suite",
}
Changes = dict[str, Any]


class Reply(Frozen):
    """Whether the reply to a held-out prompt passes."""

    id: str
    passed: bool
    unseen: bool


class Trained(Frozen):
    """The final model of one arm under one seed.

    Attributes:
        pairs, steps: of each round.
        before: its evaluation after SFT.
    """

    arm: str
    seed: int
    pairs: tuple[int, ...]
    steps: tuple[int, ...]
    report: EvalReport
    before: EvalReport
    replies: tuple[Reply, ...]


def main() -> int:
    """Train every arm under every seed, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("deployments/configs/practice.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=256, help="prompts of each round, at most")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--found", type=Path, help="the onpolicy.jsonl of other seeds")
    parser.add_argument("--label", type=json.loads, default={"name": "verifier"}, metavar="JSON")
    options = parser.parse_args()
    overrides = [*options.overrides, f"store={options.store}", "gate=null", "control=null"]
    found = [*read_rows(options.found, Trained)] if options.found else []
    for seed in options.seeds:
        config = load(options.config, [*overrides, f"seed={seed}"])
        drawing = {
            "samples": options.samples,
            "temperature": options.temperature,
            "label": options.label,
        }
        found += arms(config, prompts=options.prompts, drawing=drawing)
        text = "\n\n".join([per_seed(found), pooled(found)])
        (options.store / "onpolicy.md").write_text(text + "\n", encoding="utf-8")
        (options.store / "onpolicy.jsonl").write_bytes(b"".join(map(as_line, found)))
    print(text)
    return 0


def arms(config: PipelineConfig, *, prompts: int, drawing: Changes) -> Iterator[Trained]:
    """The arms under one seed; the others get as many pairs and steps as `own`."""
    sets = [sources(round_.data, prompts) for round_ in config.rounds]
    written = {"max_new_tokens": config.evaluation.max_new_tokens, "max_prompts": prompts}
    answered = [{"name": "own_answers", "prompts": one, **written, **drawing} for one in sets]
    own = trained("own", with_rounds(config, [{"data": one} for one in answered]))
    yield own
    fixed = [
        {"data": pair_set(one, pairs), "training": steps_of(config, steps)}
        for one, pairs, steps in zip(sets, own.pairs, own.steps, strict=True)
    ]
    yield trained("fixed", with_rounds(config, fixed))
    together = steps_of(config, sum(own.steps)) | {"engine": {"name": "stock"}}
    once = [{"data": pair_set([*itertools.chain(*sets)], sum(own.pairs)), "training": together}]
    yield trained("one-shot", with_rounds(config, once))


def sources(data: RoundData, prompts: int) -> list[Changes]:
    """The sources of a round; one of the practice set has a row for each prompt.

    They must have pairs, also those of a round on own answers.
    """
    found = data.prompts if isinstance(data, OwnAnswers) else data.sources
    return [
        source.model_dump() | ({"rows": prompts} if isinstance(source, PracticeSource) else {})
        for source in found
    ]


def pair_set(chosen: Sequence[Changes], limit: int) -> Changes:
    """At most `limit` of the pairs of these sources, one for each prompt."""
    return {
        "sources": chosen,
        "held_out_share": 0.0,
        "limit": limit,
        "max_per_prompt": 1,
        "min_rows": 0,
    }


def steps_of(config: PipelineConfig, steps: int) -> Changes:
    """The training settings with this number of steps."""
    dumped: Changes = config.dpo.model_dump(mode="json")
    return dumped | {"max_steps": steps}


def with_rounds(config: PipelineConfig, rounds: Sequence[Changes]) -> PipelineConfig:
    """The configuration with other rounds."""
    return PipelineConfig.model_validate({**config.model_dump(), "rounds": rounds})


def trained(arm: str, config: PipelineConfig) -> Trained:
    """Build every step of a run, or reuse it, and read what came out."""
    store, whole = config.open_store(), chain(config)
    for step in whole.steps():
        record = run_step(store, step)
        numbers = {name: record.metrics.get(name) for name in step.headline}
        line = (
            f"{time.monotonic() - START:4.0f} s  {arm}, seed {config.seed}: {step.name} {numbers}"
        )
        print(line, file=sys.stderr, flush=True)
    return _read(arm, config.seed, store, whole)


def _read(arm: str, seed: int, store: Store, whole: Chain) -> Trained:
    sets = [DataRef.model_validate(store.open(r.pairs.key).output) for r in whole.rounds]
    steps = [int(store.open(r.train.key).metrics["steps"]) for r in whole.rounds]
    before, after = (
        EvalReport.model_validate(store.open(key).output)
        for key in (whole.start.evaluate.key, whole.rounds[-1].evaluate.key)
    )
    return Trained(
        arm=arm,
        seed=seed,
        pairs=tuple(one.kept for one in sets),
        steps=tuple(steps),
        report=after,
        before=before,
        replies=tuple(_replies(rows_of(store, after))),
    )


def _replies(rows: ScoredRows) -> Iterator[Reply]:
    """Of the practice set's prompts, and of a suite, whose prompts are in no training."""
    for one in rows.generations:
        if one.passed is not None:
            yield Reply(id=one.id, passed=one.passed, unseen=bool(one.unseen))
    for item in rows.tasks:
        yield Reply(id=item.prompt, passed=bool(item.score), unseen=True)


# --- tables -------------------------------------------------------------------------------------


def per_seed(found: Sequence[Trained]) -> str:
    """A row for each arm and seed: pairs, steps, and pass rates with their intervals."""
    lines = [
        f"| Arm | Seed | Pairs | Steps | {' | '.join(METRICS.values())} |",
        f"|---|---:|---|---|{'---:|' * len(METRICS)}",
    ]
    for seed in dict.fromkeys(one.seed for one in found):
        mine = [one for one in found if one.seed == seed]
        lines.append(f"| SFT | {seed} | | | {_rates(mine[0].before)} |")
        for one in mine:
            counts = (" + ".join(map(str, numbers)) for numbers in (one.pairs, one.steps))
            lines.append(f"| {one.arm} | {seed} | {' | '.join(counts)} | {_rates(one.report)} |")
    return "\n".join(lines)


def pooled(found: Sequence[Trained]) -> str:
    """The differences between `own` and the other arms over all seeds, prompt by prompt."""
    lines = [
        "| Difference, all seeds | Prompts | Difference [95 %] | Better, worse, equal |",
        "|---|---|---:|---|",
    ]
    for other in ARMS[1:]:
        for unseen, name in ((None, "all"), (False, "seen phrasing"), (True, "unseen phrasing")):
            first, second = (passes(found, arm, unseen=unseen) for arm in ("own", other))
            clusters = {row: row.split("/", 1)[1] for row in first}
            paired = paired_means(first, second, clusters=clusters)
            lines.append(f"| own - {other} | {name} | {_difference(paired)} |")
    return "\n".join(lines)


def passes(found: Sequence[Trained], arm: str, *, unseen: bool | None) -> dict[str, float]:
    """Whether each reply of an arm passes, by seed and prompt."""
    return {
        f"{one.seed}/{row.id}": float(row.passed)
        for one in found
        if one.arm == arm
        for row in one.replies
        if unseen in (None, row.unseen)
    }


def _rates(report: EvalReport) -> str:
    return " | ".join(_estimate(report, name) for name in METRICS)


def _estimate(report: EvalReport, name: str) -> str:
    found = report.overall.get(name)
    return "" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _difference(paired: PairedDifference | None) -> str:
    if paired is None:
        return "no rows |"
    one = paired.difference
    numbers = f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
    return f"{numbers} | {paired.wins}, {paired.losses}, {paired.ties}"


if __name__ == "__main__":
    sys.exit(main())
