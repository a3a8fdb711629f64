"""The part of the preflight that needs neither torch nor a tokenizer: rows, copies, leaks, labels.

Sets are prepared in a temporary folder, since the run's own also depend on its tokenizer.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

from alignment.config.pipeline import PipelineConfig
from alignment.data.build.prepare import prepare_conversations, prepare_pairs
from alignment.data.build.report import PROMPT_KEYS, SET_SIGNATURES
from alignment.data.row import Record, turns
from alignment.data.split import PromptKeys
from alignment.doctor.checks.counts import check_rows, check_unwritten
from alignment.doctor.checks.flags import check_flags
from alignment.doctor.checks.gate import check_gate
from alignment.doctor.checks.overlap import check_contamination, check_duplicates
from alignment.doctor.checks.preference import about_pairs, check_conflicts, check_ties
from alignment.doctor.checks.rounds import check_rounds, without_rounds
from alignment.doctor.checks.start import check_start
from alignment.doctor.checks.texts import check_forged_turns, check_refusals
from alignment.doctor.finding import Finding, PreflightReport, percent, share
from alignment.doctor.sets import OnStep, PreparedSet, read_set
from alignment.extras import how_to_install
from alignment.pipeline.chain import Chain
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps import PrepareConversations, PreparePairs
from alignment.pipeline.steps.data import prefix_errors
from alignment.records.text import Message, PreferencePair
from alignment.report.table import Table

UNCHECKED = (
    "template, stop token, prompt prefix, supervised tokens, trimmed pairs, length bias, schedule, "
    "model, memory, time, device"
)
BYTES_PER_TOKEN = 4
"""About what a token of English text has."""


class Common(TypedDict):
    """The arguments of both kinds of preparation."""

    tokenizer: None
    earlier: dict[str, PromptKeys]
    earlier_signatures: dict[str, Path]
    seed: int
    out: Path


def examine_rows(
    config: PipelineConfig, *, command: str = "", on_progress: OnStep = lambda _: None
) -> PreflightReport:
    """Prepare a run's rows, and check what can be checked without its tokenizer.

    Args:
        config: the run.
        command: the command line, shown on the page so that readers can repeat it.
        on_progress: called with the name of each set before it is prepared.

    Raises:
        DataError: the run itself would fail before its first training.
    """
    plan = chain(config)
    with TemporaryDirectory(prefix="sft-dpo-doctor-") as work:
        sets = tuple(_prepared(plan, Path(work), on_progress))
    began = time.monotonic()
    # without its charts, which need matplotlib
    found = [
        about_pairs(f, sets).model_copy(update={"charts": ()})
        for f in _findings(plan, sets, config)
    ]
    return PreflightReport(
        title=f"{config.name}: its rows",
        created=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        command=command,
        device="any device",
        findings=tuple(found),
        seconds=round(time.monotonic() - began, 2),
    )


def _findings(
    plan: Chain, sets: Sequence[PreparedSet], config: PipelineConfig
) -> Iterator[Finding]:
    yield check_rows(sets)
    yield from check_unwritten(plan, config.inbox)
    yield check_forged_turns(sets)
    yield check_sizes(sets)
    yield check_flags(sets)
    yield check_duplicates(sets)
    yield check_contamination(sets)
    yield check_conflicts(sets)
    yield check_ties(sets)
    yield check_refusals(sets)
    yield check_start(plan)
    if config.rounds or config.inbox:
        yield check_rounds(sets)
        yield check_gate(config, sets)
    else:
        yield without_rounds(config)
    yield Finding(
        check="model, tokens",
        verdict="skip",
        headline=f"Not checked without a tokenizer: {UNCHECKED}. "
        f"To check them: {how_to_install('train')}",
    )


def check_sizes(sets: Sequence[PreparedSet]) -> Finding:
    """How large rows are in bytes. A token is a byte or more, so small rows fit in any case."""
    rows, unsure, likely, total = [], 0, 0, 0
    for set_ in sets:
        sizes = sorted(_bytes_of(row) for row in set_.train)
        if sizes:
            larger = sum(size > set_.whole for size in sizes)
            much_larger = sum(size > set_.whole * BYTES_PER_TOKEN for size in sizes)
            unsure, likely = unsure + larger, likely + much_larger
            total += len(sizes)
            middle, most = sizes[len(sizes) // 2], sizes[math.ceil(0.95 * len(sizes)) - 1]
            shown = (middle, most, sizes[-1], set_.whole, larger, much_larger)
            rows.append((set_.name, *(f"{number:,}" for number in shown)))
    columns = ("Set", "Median", "95 %", "Largest", "Limit in tokens", "Larger", "4 times as large")
    return Finding(
        check="lengths",
        verdict="skip" if unsure else "ok",
        headline=f"{likely:,} of {total:,} rows ({percent(share(likely, total))}) are too long if "
        f"{BYTES_PER_TOKEN} bytes are a token, as in English, and {unsure:,} if every byte is; the "
        "tokenizer decides."
        if unsure
        else "No row has more bytes than its limit has tokens, so all fit but for the template's "
        "own tokens.",
        figures={"larger": unsure, "much_larger": likely, "rows": total},
        tables=(Table.of("Bytes per row", columns, rows),),
    )


def _bytes_of(row: Record) -> int:
    """Bytes of a row as it is trained; of a pair, with the longer reply."""
    if isinstance(row, PreferencePair):
        return _size(row.prompt) + max(_size(row.chosen), _size(row.rejected))
    return _size(turns(row))


def _size(messages: Iterable[Message]) -> int:
    return sum(len(message.text.encode()) for message in messages)


def _prepared(plan: Chain, work: Path, on_progress: OnStep) -> Iterator[PreparedSet]:
    """Every set of a run whose rows exist before it; each excludes prompts of those before it."""
    rounds = (r.pairs for r in plan.rounds if isinstance(r.pairs, PreparePairs))
    for step in (plan.held_out, plan.conversations, *rounds):
        if step is not None:
            on_progress(step.name)
            yield _prepare(step, work)


def _prepare(step: PreparePairs | PrepareConversations, work: Path) -> PreparedSet:
    out = work / step.key
    out.mkdir()
    earlier = {name: work / key for name, key in step.earlier.items() if (work / key).exists()}
    signatures = {name: folder / SET_SIGNATURES for name, folder in earlier.items()}
    earlier_prompts = {name: PromptKeys.read(at / PROMPT_KEYS) for name, at in earlier.items()}
    common = Common(
        tokenizer=None,
        earlier=earlier_prompts,
        earlier_signatures={name: at for name, at in signatures.items() if at.exists()},
        seed=step.seed,
        out=out,
    )
    with prefix_errors(step):
        if isinstance(step, PrepareConversations):
            done = prepare_conversations(step.config, max_length=step.max_length, **common)
        else:
            done = prepare_pairs(step.config, lengths=step.lengths, **common)
    return read_set(step, done.ref, out.joinpath, out)
