"""Writes the answers of a model to prompts; each is on disk before the next one is asked for."""

from collections.abc import Sequence
from pathlib import Path

from alignment.answers.answer import Answer, Asked
from alignment.answers.ask import answers
from alignment.answers.settings import AnyEngine, Sampling, Vllm
from alignment.answers.vllm import Served, fitting_rank, vllm_answers
from alignment.candidates.records import CandidatePrompt
from alignment.errors import ModelError
from alignment.models.adapters import plain_base
from alignment.models.experts import in_experts
from alignment.models.factors import write_concatenated
from alignment.models.folder import check_weights
from alignment.models.hub import base_folder
from alignment.models.load import open_model
from alignment.models.tokenizer import open_tokenizer
from alignment.records.refs import ModelRef
from alignment.store.durable import failpoint_span, remove
from alignment.store.journal import Journal
from alignment.store.progress import Progress
from alignment.store.store import Store


def write_answers(
    store: Store,
    model: ModelRef,
    prompts: Sequence[CandidatePrompt],
    sampling: Sampling,
    journal: Journal[Answer],
    progress: Progress,
    *,
    dtype: str,
    engine: AnyEngine,
    scratch: Path,
) -> None:
    """Write every answer that is not in the journal yet; if there is none, nothing is loaded.

    Args:
        store: resolves the reference.
        model: who answers, with full weights.
        prompts: what is asked.
        sampling: how answers are drawn.
        journal: where they are written.
        progress: updated after each.
        dtype: of the weights in memory.
        engine: what computes them.
        scratch: a folder for files that the engine needs meanwhile.
    """
    total = len(prompts) * sampling.samples
    done = {(row.prompt_id, row.sample) for row in journal.rows}
    progress.update("answering", len(done), total)
    if len(done) == total:
        return
    asked = [Asked(prompt.id, prompt.prompt) for prompt in prompts]
    if isinstance(engine, Vllm):
        served = _served(store, model, dtype, scratch)
        tokenizer = open_tokenizer(model, store)
        found = vllm_answers(engine, served, tokenizer, asked, sampling, done=done)
    else:
        loaded = open_model(model, store, dtype=dtype, quantised=False)
        found = answers(
            loaded.model, loaded.tokenizer, asked, sampling, engine=engine.name, done=done
        )
    for answer in found:
        journal.append(answer)
        progress.update("answering", len(journal.rows), total)


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
