"""The inputs of the checks: the configuration, its chain, and the sets as the run prepares them.

The data stages are built with the run's own steps and stay in the store. So the checks see exactly
what the run will use, and the run reuses it. Only the model's config and tokenizer are needed.
Not here: any verdict.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from alignment.config.pipeline import PipelineConfig
from alignment.doctor.sets import SAMPLE, OnStep, PreparedSet, read_set
from alignment.doctor.shape import Shape
from alignment.doctor.tokens import encode_chats, encode_pairs
from alignment.execution.run_step import build, run_step
from alignment.models.hub import base_folder
from alignment.pipeline.chain import Chain
from alignment.pipeline.steps import PrepareConversations, PreparePairs
from alignment.records.manifest import StageRecord
from alignment.records.refs import DataRef, ModelRef
from alignment.records.text import Conversation, PreferencePair
from alignment.store.progress import Progress
from alignment.store.store import Store


@dataclass(frozen=True)
class PreflightInputs:
    """Everything the checks need to know about a run that has not started.

    Attributes:
        folder: contains the model's config.json and tokenizer.
    """

    config: PipelineConfig
    chain: Chain
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    shape: Shape | None
    sets: tuple[PreparedSet, ...]


def model_folder(chain: Chain, store: Store, on_progress: OnStep) -> Path:
    """A folder with the base model's config and tokenizer.

    Weights are fetched only if the source cannot deliver these files without them.

    Raises:
        ModelError: the source does not have the model, or cannot be reached.
    """
    folder = chain.base.source.fetch_tokenizer()
    if folder is not None:
        return folder
    on_progress(chain.base.name)
    ref = ModelRef.model_validate(run_step(store, chain.base).output)
    return base_folder(ref.base, store)


def prepare_sets(
    chain: Chain, store: Store, tokenizer: PreTrainedTokenizerBase, on_progress: OnStep
) -> tuple[PreparedSet, ...]:
    """Every set of a chain, built or reused, and read back.

    Raises:
        DataError: a source cannot be read, or too few of its rows remain.
    """
    rounds = (r.pairs for r in chain.rounds if isinstance(r.pairs, PreparePairs))
    prepared: list[PreparedSet] = []
    for step in (chain.held_out, chain.conversations, *rounds):
        if step is not None:
            on_progress(step.name)
            record = store.reuse(step.key) or build(store, step, Progress(), tokenizer=tokenizer)
            prepared.append(_read_back(step, record, store, tokenizer))
    return tuple(prepared)


def _read_back(
    step: PreparePairs | PrepareConversations,
    record: StageRecord,
    store: Store,
    tokenizer: PreTrainedTokenizerBase,
) -> PreparedSet:
    set_ = read_set(step, DataRef.model_validate(record.output), store.path, store.folder(step.key))
    if isinstance(step, PrepareConversations):
        chats = [row for row in set_.train[:SAMPLE] if isinstance(row, Conversation)]
        return replace(set_, chats=encode_chats(tokenizer, chats))
    pairs = [row for row in set_.train[:SAMPLE] if isinstance(row, PreferencePair)]
    return replace(set_, pairs=encode_pairs(tokenizer, pairs))
