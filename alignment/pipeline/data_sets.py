"""The data steps of a run, and the settings of a round that they share with its training."""

from alignment.candidates.settings import OwnAnswers
from alignment.config.pipeline import PipelineConfig, TrainedSft
from alignment.data.build.settings import Lengths, PairSetConfig
from alignment.data.practice.source import PracticeSource
from alignment.data.read.sources import Source
from alignment.pipeline.steps import ChoosePrompts, OpenBase, PrepareConversations, PreparePairs
from alignment.records.base import digest_of
from alignment.train.settings import DpoConfig

EVALUATION = "evaluation"
"""Name of the set that is only used for evaluation."""


def seed_for(seed: int, purpose: str) -> int:
    """Derive a separate seed for each purpose of a run, 0 .. 2^31 - 1."""
    return int(digest_of([seed, purpose])[:8], 16) >> 1


def dpo_of(config: PipelineConfig, number: int) -> DpoConfig:
    """The training settings of a round: its own, or those shared by all rounds."""
    return config.rounds[number - 1].training or config.dpo


def lengths_of(dpo: DpoConfig) -> Lengths:
    """The length limits of pairs under these training settings."""
    return Lengths(
        prompt=dpo.max_prompt_length, whole=dpo.max_length, reply=dpo.min_completion_tokens
    )


class DataSets:
    """Builds the data steps of a run. Each names the sets before it, whose prompts it excludes."""

    def __init__(self, config: PipelineConfig, base: OpenBase) -> None:
        self._config, self._base = config, base
        self._earlier: dict[str, str] = {}

    def held_out(self) -> PreparePairs | None:
        """The set that is used for evaluation only, if the config has one."""
        data = self._config.evaluation.data
        if data is None:
            return None
        sources = tuple(_held_out(source) for source in data.sources)
        data = data.model_copy(update={"sources": sources, "min_rows": 0})
        return self._prepare(EVALUATION, data, self._config.dpo)

    def source(self, number: int) -> PreparePairs | ChoosePrompts:
        """What a round begins with: its pairs, or prompts for own answers."""
        data = self._config.rounds[number - 1].data
        if isinstance(data, OwnAnswers):
            return self._prompts(number, data)
        return self._prepare(f"{number}", data, dpo_of(self._config, number))

    def _prompts(self, number: int, own: OwnAnswers) -> ChoosePrompts:
        own = own.with_seed(self._config.seed)
        step = ChoosePrompts(
            name=f"prompts-{number}",
            seed=seed_for(self._config.seed, "split"),
            sources=own.prompts,
            max_prompts=own.max_prompts,
            max_tokens=dpo_of(self._config, number).max_prompt_length,
            digest=own.digest(),
            base=self._base.key,
            earlier=dict(self._earlier),
            label=own.label,
            samples=own.samples,
            engine=own.engine,
        )
        self._earlier[f"{number}"] = step.key
        return step

    def conversations(self) -> PrepareConversations | None:
        """The set that SFT trains on, if there is SFT."""
        sft = self._config.sft
        if not isinstance(sft, TrainedSft):
            return None
        data = sft.data.with_seed(self._config.seed)
        step = PrepareConversations(
            name="conversations",
            seed=seed_for(self._config.seed, "split"),
            config=data,
            max_length=sft.training.max_length,
            digest=data.digest(),
            base=self._base.key,
            earlier=dict(self._earlier),
        )
        self._earlier["sft"] = step.key
        return step

    def _prepare(self, name: str, data: PairSetConfig, dpo: DpoConfig) -> PreparePairs:
        data = data.with_seed(self._config.seed)
        step = PreparePairs(
            name=f"pairs-{name}",
            seed=seed_for(self._config.seed, "split"),
            config=data,
            lengths=lengths_of(dpo),
            digest=data.digest(),
            base=self._base.key,
            earlier=dict(self._earlier),
        )
        self._earlier[name] = step.key
        return step


def _held_out(source: Source) -> Source:
    """The source with no row left to train on: nothing trains on the evaluation's own data."""
    if isinstance(source, PracticeSource):
        return source
    return source.model_copy(update={"use": "held_out"})
