"""A small run with every kind of row, made by arithmetic: base, SFT, two rounds and a control."""

import pytest

from alignment.evaluate.evaluator import ScoredRows
from alignment.evaluate.summary import summarise
from alignment.evaluate.verdict import Check, Verdict
from alignment.records.evaluation import EvalReport, Generation, PairScore
from alignment.records.manifest import CodeVersion, StageRecord
from alignment.records.refs import (
    AdapterRef,
    BaseRef,
    DataRef,
    Materialised,
    ModelRef,
    TokenizerRef,
)
from alignment.records.text import Message, PreferencePair
from alignment.report.run_report import RunReport, Sample

PASSES = {"base": 2, "sft": 20, "round 1": 26, "round 2": 34, "control": 33}
"""How many of 40 prompts each model passes."""
GAINS = {"base": 0.0, "sft": 2.0, "round 1": 5.0, "round 2": 9.0, "control": 4.0}
"""Nats by which each model lowers the rejected reply of every pair."""
TASKS = ("city", "email", "lower", "number")


def replies(label: str) -> tuple[Generation, ...]:
    return tuple(
        Generation(
            id=f"p{row:02d}",
            task_type=TASKS[row % 4],
            source="practice",
            prompt=f"Name city number {row}.",
            reply=f"Lima {row}" if row < PASSES[label] else f"I think it is Lima, {row}.",
            tokens=3 + row % 5,
            stopped=row % 9 != 0,
            passed=row < PASSES[label],
            unseen=row % 2 == 0,
        )
        for row in range(40)
    )


def scores(label: str) -> tuple[PairScore, ...]:
    return tuple(
        PairScore(
            id=f"q{row:02d}",
            task_type=TASKS[row % 4],
            source="practice",
            chosen=-10.0 + row % 3,
            rejected=-14.0 + row / 2 - GAINS[label],
            base_chosen=-10.0 + row % 3,
            base_rejected=-14.0 + row / 2,
            chosen_tokens=2 + row % 4,
            rejected_tokens=5 + row % 7,
            kl_from_base=GAINS[label] / 50,
        )
        for row in range(30)
    )


def pair_texts() -> tuple[PreferencePair, ...]:
    return tuple(
        PreferencePair(
            id=f"q{row:02d}",
            prompt=(Message(role="user", content=f"What is the last word of line {row}?"),),
            chosen=(Message(role="assistant", content=f"kettle {row}"),),
            rejected=(Message(role="assistant", content=f"The last word is kettle {row}."),),
            task_type=TASKS[row % 4],
            source="practice",
        )
        for row in range(30)
    )


def evaluation(label: str) -> EvalReport:
    summary = summarise(ScoredRows(pairs=scores(label), generations=replies(label)))
    return EvalReport(model=label, **summary._asdict(), generations="g.jsonl", pairs="p.jsonl")


def record(name: str, stage: str, **fields: object) -> StageRecord:
    return StageRecord.model_validate(
        {
            "key": f"{stage}-0123456789abcdef",
            "stage": stage,
            "version": 1,
            "name": name,
            "parents": {},
            "config": {},
            "seed": 0,
            "output": {},
            "metrics": {},
            "files": (),
            "code": CodeVersion(revision="abc"),
            "libraries": {},
            "hardware": {},
            "started": "2026-01-01T00:00:00Z",
            "seconds": 61.0,
            **fields,
        }
    )


HAND_OVER = {"kept_share": 0.99874, "mean_abs_logprob": 0.01, "kl": 3.4e-5, "top1": 0.997}


def merged() -> ModelRef:
    base = BaseRef(uri="store:base", sha256="b", dtype="bfloat16")
    adapter = AdapterRef(
        uri="store:sft",
        sha256="a",
        stage="sft",
        r=16,
        alpha=32,
        target_modules=("q_proj",),
        trained_on="b",
    )
    return ModelRef(
        base=base,
        tokenizer=TokenizerRef(uri="t", sha256="t", chat_template_sha256="c"),
        materialised=Materialised(
            dtype="bfloat16",
            origin=base,
            deltas=(adapter,),
            kept_share=HAND_OVER["kept_share"],
            probe={name: HAND_OVER[name] for name in ("mean_abs_logprob", "kl", "top1")},
        ),
    )


PASSED = Check(name="pass rate", finding="passed", words="pass rate rose by 0.200")
BROKEN = Check(name="pass rate", finding="failed", words="pass rate fell by 0.300")
FINE = (Check(name="length", finding="passed", words="replies went from 9.0 to 8.0 tokens"),)


@pytest.fixture(scope="session")
def run():
    """The whole run as a `RunReport`; tests change copies of it."""
    output = merged().model_dump(mode="json")
    history = tuple(
        {"step": step, "loss": 2.0 / step, "rewards/margins": 0.1 * step} for step in range(1, 9)
    )
    return RunReport(
        title="practice, seed 7",
        created="2026-01-01 12:00",
        command="sft-dpo run practice.yaml",
        config="name: practice\nseed: 7\n",
        notes=("No SFT adapter was found.",),
        evaluations=tuple(evaluation(label) for label in PASSES),
        generations={label: replies(label) for label in PASSES},
        pairs={label: scores(label) for label in PASSES},
        pair_texts=pair_texts(),
        histories={"sft": history, "dpo-1": (*history, {"step": 8, "eval_loss": 0.4})},
        samples={"sft": tuple(Sample(step=s, prompt="Say hi", reply=f"hi {s}") for s in range(9))},
        records=(
            record("sft", "sft", metrics={"steps": 48.0, "loss": 0.7, "eval_loss": 0.712}),
            record("merge-sft", "merge", output=output, metrics=HAND_OVER),
            record("dpo-1", "dpo", output=output, notes=("Three prompts were trimmed.",)),
        ),
        verdicts=(
            Verdict(candidate="round 1", champion="sft", checks=(PASSED, *FINE)),
            Verdict(candidate="round 2", champion="round 1", checks=(BROKEN, *FINE)),
        ),
        data={
            "pairs-1": DataRef(
                kind="pairs",
                train="t",
                held_out="h",
                quarantine="q",
                kept=1384,
                held=150,
                prompt_count=40,
                quarantined={"tie": 2, "duplicate": 9},
            )
        },
        timings={"dpo-1": 61.0},
    )
