"""The steps of a round on the model's own answers: answers, labels, and the pairs made of them."""

from alignment.candidates.settings import Answering, DeltaLabel, JudgeLabel, Label, RewardLabel
from alignment.config.pipeline import PipelineConfig
from alignment.pipeline.chain import Own, Weaker
from alignment.pipeline.data_sets import lengths_of, seed_for
from alignment.pipeline.steps import (
    ChooseBatchPrompts,
    ChoosePrompts,
    JoinAnswers,
    LabelAnswers,
    MeasureJudge,
    OpenWeak,
    PairAnswers,
    RewardAnswers,
    WriteAnswers,
)
from alignment.train.settings import DpoConfig


def labels_step(
    label: Label, name: str, answers: str, prompts: str
) -> LabelAnswers | RewardAnswers:
    """The step that labels answers (by key); only a reward model needs the GPU."""
    if isinstance(label, RewardLabel):
        return RewardAnswers(
            name=name, label=label, digest=label.model.digest(), answers=answers, prompts=prompts
        )
    return LabelAnswers(name=name, label=label, answers=answers, prompts=prompts)


def agreement_step(label: Label, name: str) -> MeasureJudge | None:
    """The step that measures a judge on pairs labelled by people, if there are any."""
    people = label.people if isinstance(label, JudgeLabel) else None
    if not isinstance(label, JudgeLabel) or people is None:
        return None
    return MeasureJudge(name=name, label=label, people=people, digest=people.digest())


def weaker_steps(label: Label, answers: WriteAnswers, number: int) -> Weaker | None:
    """The steps that answer the same prompts with a weaker model, if the label names one."""
    if not isinstance(label, DeltaLabel):
        return None
    model = OpenWeak(name="weak", source=label.weak, digest=label.weak.digest())
    theirs = answers.model_copy(update={"name": f"weak-answers-{number}", "model": model.key})
    joined = JoinAnswers(
        name=f"joined-{number}",
        samples=answers.sampling.samples,
        answers=answers.key,
        weak=theirs.key,
    )
    return Weaker(model=model, answers=theirs, joined=joined)


def own_steps(
    config: PipelineConfig,
    number: int,
    answering: Answering,
    *,
    policy: str,
    prompts: ChoosePrompts | ChooseBatchPrompts,
    dpo: DpoConfig,
) -> tuple[PairAnswers, Own]:
    """The pairs of a round on the answers of `policy` (a key), and the steps before them."""
    answers = WriteAnswers(
        name=f"answers-{number}",
        seed=seed_for(config.seed, f"answers-{number}"),
        sampling=answering.drawing(),
        dtype=config.evaluation.dtype,
        engine=answering.engine,
        batch=config.evaluation.batch,
        model=policy,
        prompts=prompts.key,
    )
    weaker = weaker_steps(answering.label, answers, number)
    candidates = weaker.joined.key if weaker else answers.key
    labels = labels_step(answering.label, f"labels-{number}", candidates, prompts.key)
    pairs = PairAnswers(
        name=f"pairs-{number}",
        seed=seed_for(config.seed, "split"),
        pairing=answering.pairing,
        min_pairs=answering.min_pairs,
        lengths=lengths_of(dpo),
        labels=labels.key,
        answers=candidates,
        prompts=prompts.key,
        base=prompts.base,
        earlier=prompts.earlier,
    )
    agreement = agreement_step(answering.label, f"agreement-{number}")
    own = Own(prompts=prompts, agreement=agreement, answers=answers, weaker=weaker, labels=labels)
    return pairs, own
