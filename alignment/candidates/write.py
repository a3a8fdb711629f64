"""Writes the answers of a model to prompts; each is on disk before the next one is asked for."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from alignment.answers.answer import Answer, Asked
from alignment.answers.ask import answers
from alignment.answers.settings import AnyEngine, Sampling, Vllm
from alignment.answers.vllm import Served, fitting_rank, vllm_answers
from alignment.candidates.records import ROWS, CandidatePrompt, answer_id
from alignment.candidates.shared import shared_journal
from alignment.errors import ModelError
from alignment.models.adapters import plain_base
from alignment.models.experts import in_experts
from alignment.models.factors import write_concatenated
from alignment.models.folder import check_weights
from alignment.models.hub import base_folder
from alignment.models.load import open_model
from alignment.models.tokenizer import open_tokenizer
from alignment.records.refs import ModelRef
from alignment.scoring.ranks import Ranks
from alignment.store.durable import failpoint_span, remove
from alignment.store.journal import Journal
from alignment.store.progress import Progress
from alignment.store.store import Store
from alignment.store.workspace import Workspace


def write_answers(
    store: Store,
    model: ModelRef,
    prompts: Sequence[CandidatePrompt],
    sampling: Sampling,
    workspace: Workspace,
    progress: Progress,
    *,
    dtype: str,
    engine: AnyEngine,
    batch: int = 16,
) -> list[Answer]:
    """All answers; those that an earlier attempt has not written are written first.

    If there is none, nothing is loaded. On several devices, each answers a share of the prompts.

    Args:
        store: resolves the reference.
        model: who answers, with full weights.
        prompts: what is asked.
        sampling: how answers are drawn.
        workspace: where they are written, and files that the engine needs meanwhile.
        progress: updated after each.
        dtype: of the weights in memory.
        engine: what computes them.
        batch: answers that are written at once on a CPU.
    """
    with shared_journal(workspace, ROWS, Answer) as journal:
        scratch = workspace.folder / "adapter"
        _write_missing(
            store,
            model,
            prompts,
            sampling,
            journal,
            progress,
            dtype=dtype,
            engine=engine,
            batch=batch,
            scratch=scratch,
        )
    return journal.rows


def _write_missing(
    store: Store,
    model: ModelRef,
    prompts: Sequence[CandidatePrompt],
    sampling: Sampling,
    journal: Journal[Answer],
    progress: Progress,
    *,
    dtype: str,
    engine: AnyEngine,
    batch: int,
    scratch: Path,
) -> None:
    total, ranks = len(prompts) * sampling.samples, Ranks.current()
    done = {answer_id(row) for row in journal.rows}
    progress.update("answering", len(done), total)
    answered = Counter(name for name, _ in done)
    waiting = [prompt for prompt in prompts if answered[prompt.id] < sampling.samples]
    share = ranks.share([sampling.samples - answered[prompt.id] for prompt in waiting])
    if not share:
        return
    asked = [Asked(waiting[at].id, waiting[at].prompt) for at in share]
    if isinstance(engine, Vllm):
        served = _served(store, model, dtype, scratch)
        tokenizer = open_tokenizer(model, store)
        found = vllm_answers(engine, served, tokenizer, asked, sampling, done=done)
    else:
        loaded = open_model(model, store, dtype=dtype, quantised=False)
        found = answers(
            loaded.model,
            loaded.tokenizer,
            asked,
            sampling,
            engine=engine.name,
            batch=batch,
            done=done,
        )
    for number, answer in enumerate(found, start=1):
        journal.append(answer)
        progress.update("answering", len(done) + ranks.counted(number, total - len(done)), total)


def _served(store: Store, model: ModelRef, dtype: str, scratch: Path) -> Served:
    """The model for vLLM, which takes one adapter: a stack is joined, which rounds nothing.

    Raises:
        ModelError: vLLM cannot take its adapters.
    """
    folder = base_folder(model.base, store)
    check_weights(folder)
    if not model.adapters:
        return Served(folder, dtype)
    rank = sum(adapter.r for adapter in model.adapters)
    experts = any(in_experts(name) for one in model.adapters for name in one.target_modules)
    if experts or fitting_rank(rank) is None:
        why = "change experts" if experts else f"have rank {rank} together"
        raise ModelError(
            f"vLLM cannot take the adapters of {model.adapters[-1].stage}: they {why}. Set "
            "compose.name=merge, or engine: {name: auto}."
        )
    parts = [store.path(adapter.uri) for adapter in model.adapters]
    remove("answers.begun", scratch)
    scratch.mkdir(parents=True)
    with failpoint_span("answers.adapter"):
        write_concatenated(parts, scratch, base=plain_base(model.base, folder))
    return Served(folder, dtype, scratch)
