"""Labels answers one by one; each label is on disk before the next one is made."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.answers.answer import Answer
from alignment.candidates.checker import checker
from alignment.candidates.records import AnswerLabel, CandidatePrompt, CheckRequest
from alignment.candidates.settings import JudgeLabel, Label, OwnCheck, RewardLabel, VerifierLabel
from alignment.errors import ConfigError, DataError, ModelError
from alignment.models.sources import FolderModel
from alignment.store.journal import Journal
from alignment.store.progress import Progress

CLASSIFIER = "ForSequenceClassification"
ENOUGH = 50
"""Answers after which a verifier that has scored none is not asked again."""


def label_by_verifier(
    label: VerifierLabel,
    prompts: Mapping[str, CandidatePrompt],
    answers: Sequence[Answer],
    journal: Journal[AnswerLabel],
    progress: Progress,
) -> None:
    """Score every answer that has no label in the journal yet.

    Raises:
        ConfigError: the verifier cannot be imported.
        DataError: it could not score a single answer; told after the first `ENOUGH`.
    """
    done = {(row.prompt_id, row.sample) for row in journal.rows}
    missing = [answer for answer in answers if (answer.prompt_id, answer.sample) not in done]
    with checker(label.check, seconds=label.seconds) as opened:
        for number, answer in enumerate(missing):
            if number == ENOUGH:
                _check_scores(journal.rows)
            prompt = prompts[answer.prompt_id]
            result = opened.score(
                CheckRequest(
                    prompt=prompt.prompt,
                    answer=answer.answer,
                    verifier=prompt.verifier,
                    reference=prompt.reference,
                )
            )
            journal.append(
                AnswerLabel(
                    prompt_id=answer.prompt_id,
                    sample=answer.sample,
                    score=result.score,
                    detail=result.error,
                )
            )
            progress.update("labelling", len(journal.rows), len(answers))
    _check_scores(journal.rows)


def _check_scores(labels: Sequence[AnswerLabel]) -> None:
    if labels and all(row.score is None for row in labels):
        raise DataError(
            f"the verifier scored none of {len(labels)} answers; the first: "
            f"{labels[0].detail}. Correct label.check; if that is in your function, change "
            "its version too, or these labels are read again."
        )


def _check_classifier(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # opening the model will say what is wrong
    kinds = config.get("architectures") or []
    if kinds and not any(kind.endswith(CLASSIFIER) for kind in kinds):
        raise ModelError(
            f"label.model: {folder} is a {kinds[0]}; a reward model is a sequence classifier "
            f"(...{CLASSIFIER}) with one label."
        )
    labels = len(config.get("id2label") or "??")  # transformers leaves out the default, which is 2
    if labels != 1:
        raise ModelError(f"label.model: {folder} has {labels} labels; a reward model has one.")


def check_own_verifiers(label: Label, prompts: Sequence[CandidatePrompt]) -> None:
    """Check that there is a verifier where prompts are to bring their own.

    Raises:
        ConfigError: no prompt has one.
    """
    own = isinstance(label, VerifierLabel) and isinstance(label.check, OwnCheck)
    if own and prompts and all(prompt.verifier is None for prompt in prompts):
        raise ConfigError(
            f"label.check is `own`, and none of {len(prompts)} prompts has a verifier of its own, "
            "as only those of the practice set do. Name another check or label: "
            "label: {name: verifier, check: {name: pattern, pattern: ...}}"
        )


def label_by_origin(answers: Sequence[Answer], journal: Journal[AnswerLabel]) -> None:
    """Score the answers of two models: 1 for the first half of the samples, 0 for the other."""
    half = (max(answer.sample for answer in answers) + 1) // 2
    done = {(row.prompt_id, row.sample) for row in journal.rows}
    for answer in answers:
        name = (answer.prompt_id, answer.sample)
        if name not in done:
            score = float(answer.sample < half)
            journal.append(AnswerLabel(prompt_id=name[0], sample=name[1], score=score))


def try_label(label: Label) -> None:
    """Try what labels need, before there are answers.

    Raises:
        ConfigError: the verifier cannot be imported, or the judge's key is not there.
        ModelError: a folder holds another kind of model than a reward model.
    """
    if isinstance(label, RewardLabel) and isinstance(label.model, FolderModel):
        _check_classifier(label.model.path)
    if isinstance(label, JudgeLabel):
        if label.key_file is not None and not label.key_file.is_file():
            raise ConfigError(f"label.key_file: there is no {label.key_file}")
    elif isinstance(label, VerifierLabel):
        with checker(label.check, seconds=label.seconds):
            pass
