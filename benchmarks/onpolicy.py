"""Do rounds on the model's own answers pay? Three arms after the same SFT, on the practice set.

    python -m benchmarks.onpolicy --store runs/onpolicy [--seeds 0 1 2] [--set KEY=VALUE ...]

own: three rounds on answers of the current model, labelled by the prompts' own verifiers.
fixed: three rounds on the set's pairs of the same prompts, as many pairs and steps in each round.
one-shot: one DPO of TRL's own trainer on all pairs of `fixed`, as many steps as its rounds.
No gate decides, so every round counts. The tables are printed and written to STORE/onpolicy.md.
Pass rates are of greedy replies to held-out prompts, by the same kind of verifiers.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig
from alignment.evaluate.intervals import PairedDifference, paired_means
from alignment.execution.run_step import run_step
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.records.base import Frozen
from alignment.records.evaluation import EvalReport, Generation
from alignment.records.refs import DataRef
from alignment.report.gates import rows_of
from alignment.store.store import Store

ARMS = ("own", "fixed", "one-shot")
ROUNDS = 3
METRICS = {
    "pass_rate": "held-out prompts",
    "pass_rate_seen": "phrasings seen in training",
    "pass_rate_unseen": "unseen phrasings",
}
Changes = dict[str, Any]


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
    generations: tuple[Generation, ...]


def main() -> int:
    """Train every arm under every seed, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("deployments/configs/practice.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=256, help="prompts of each own round")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--label", type=json.loads, default={"name": "verifier"}, metavar="JSON")
    options = parser.parse_args()
    overrides = [*options.overrides, f"store={options.store}", "gate=null", "control=null"]
    found: list[Trained] = []
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
    print(text)
    return 0


def arms(config: PipelineConfig, *, prompts: int, drawing: Changes) -> Iterator[Trained]:
    """The arms under one seed; the others get as many pairs and steps as `own`."""
    own = trained("own", with_rounds(config, own_rounds(config, prompts, drawing)))
    yield own
    limits = list(zip(own.pairs, own.steps, strict=True))
    fixed = [
        {"data": pair_set([number], prompts, pairs), "training": steps_of(config, steps)}
        for number, (pairs, steps) in enumerate(limits, start=1)
    ]
    yield trained("fixed", with_rounds(config, fixed))
    together = steps_of(config, sum(own.steps)) | {"engine": {"name": "stock"}}
    numbers = list(range(1, ROUNDS + 1))
    once = [{"data": pair_set(numbers, prompts, sum(own.pairs)), "training": together}]
    yield trained("one-shot", with_rounds(config, once))


def own_rounds(config: PipelineConfig, prompts: int, drawing: Changes) -> list[Changes]:
    """Rounds on own answers to the prompts of the practice set's rounds."""
    return [
        {
            "data": {
                "name": "own_answers",
                "prompts": [{"name": "practice", "part": f"round-{number}", "rows": prompts}],
                "max_new_tokens": config.evaluation.max_new_tokens,
                **drawing,
            }
        }
        for number in range(1, ROUNDS + 1)
    ]


def pair_set(rounds: Sequence[int], rows: int, limit: int) -> Changes:
    """The practice set's own pairs of some rounds, at most `limit`."""
    sources = [{"name": "practice", "part": f"round-{number}", "rows": rows} for number in rounds]
    return {"sources": sources, "held_out_share": 0.0, "limit": limit, "min_rows": 0}


def steps_of(config: PipelineConfig, steps: int) -> Changes:
    """The training settings with this number of steps."""
    dumped: Changes = config.dpo.model_dump(mode="json")
    return dumped | {"max_steps": steps}


def with_rounds(config: PipelineConfig, rounds: Sequence[Changes]) -> PipelineConfig:
    """The configuration with other rounds."""
    return PipelineConfig.model_validate({**config.model_dump(), "rounds": rounds})


def trained(arm: str, config: PipelineConfig) -> Trained:
    """Build every step of a run, or reuse it, and read what came out."""
    store, whole = Store(root=config.store), chain(config)
    for step in whole.steps():
        print(f"{arm}, seed {config.seed}: {step.name}", file=sys.stderr, flush=True)
        run_step(store, step)
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
        generations=tuple(rows_of(store, after).generations),
    )


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
        for row in one.generations
        if row.passed is not None and unseen in (None, row.unseen)
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
