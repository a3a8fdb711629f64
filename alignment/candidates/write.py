"""Writes the answers of a model to prompts; each is on disk before the next one is asked for."""

from collections.abc import Sequence

from alignment.answers.answer import Answer, Asked
from alignment.answers.ask import answers
from alignment.answers.settings import Sampling
from alignment.candidates.records import CandidatePrompt
from alignment.models.load import open_model
from alignment.records.refs import ModelRef
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
) -> None:
    """Write every answer that is not in the journal yet; if there is none, nothing is loaded."""
    total = len(prompts) * sampling.samples
    done = {(row.prompt_id, row.sample) for row in journal.rows}
    progress.update("answering", len(done), total)
    if len(done) == total:
        return
    loaded = open_model(model, store, dtype=dtype, quantised=False)
    for answer in answers(
        loaded.model,
        loaded.tokenizer,
        [Asked(prompt.id, prompt.prompt) for prompt in prompts],
        sampling,
        done=done,
    ):
        journal.append(answer)
        progress.update("answering", len(journal.rows), total)
