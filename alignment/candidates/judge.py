"""Labels by a judge: an OpenAI-compatible endpoint compares each answer with the prompt's first.

Every pair is shown in both orders; a judge that changes its mind with the order has not decided.
Every call is on disk before the next one is made, with what the judge said, so none is paid twice.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from alignment.answers.answer import Answer
from alignment.candidates.records import AnswerLabel, CandidatePrompt, JudgeCall
from alignment.candidates.settings import JudgeLabel
from alignment.errors import ConfigError, DataError, Interrupted
from alignment.store.journal import Journal
from alignment.store.progress import Progress

BYTES_PER_TOKEN = 3
"""Few, so that the estimate of the cost is high."""
PASSING = {408, 409, 425, 429}
"""Codes below 500 after which the same call may succeed."""
SCORES = {"A": 1.0, "B": -1.0, "C": 0.0}


class JudgeQuestion(NamedTuple):
    """Two answers in the order in which the judge sees them; `other` is the one being labelled."""

    prompt: CandidatePrompt
    base: Answer
    other: Answer
    swapped: bool

    @property
    def id(self) -> tuple[str, int, bool]:
        """What identifies the call."""
        return self.prompt.id, self.other.sample, self.swapped

    def text(self, label: JudgeLabel) -> str:
        """What the judge reads."""
        turns = "\n\n".join(f"{turn.role}: {turn.content}" for turn in self.prompt.prompt)
        first, second = (self.base, self.other) if self.swapped else (self.other, self.base)
        return (
            f"{label.instruction}\n\n[Conversation]\n{turns}\n\n[Answer A]\n{first.answer}\n\n"
            f"[Answer B]\n{second.answer}\n\nReply with one letter: A, B, or C for equally good."
        )


def label_by_judge(
    label: JudgeLabel,
    prompts: Mapping[str, CandidatePrompt],
    answers: Sequence[Answer],
    calls: Journal[JudgeCall],
    journal: Journal[AnswerLabel],
    progress: Progress,
) -> None:
    """Make every call that is not in `calls` yet, then write the labels.

    Raises:
        ConfigError: the budget cannot suffice, or the endpoint refuses the call.
        DataError: the judge answered no call with a letter.
        Interrupted: the endpoint is overloaded or away; the same command goes on.
    """
    compared = list(_comparisons(prompts, answers))
    done = {(row.prompt_id, row.sample, row.swapped) for row in calls.rows}
    missing = [one for one in compared if one.id not in done]
    check_budget(label, [one.text(label) for one in missing], spent=_spent(calls))
    with httpx.Client(timeout=label.seconds, headers=_headers(label)) as client:
        for one in missing:
            if _spent(calls) >= label.max_tokens:
                raise ConfigError(
                    f"label.max_tokens ({label.max_tokens:,}) is spent after {len(calls.rows)} of "
                    f"{len(compared)} calls; raise it and run again: no call is repeated."
                )
            calls.append(_call(client, label, one, progress))
            progress.update("judging", len(calls.rows), len(compared))
    if compared and all(row.choice is None for row in calls.rows):
        raise DataError(f"the judge never replied with A, B or C: {calls.rows[0].raw!r:.200}")
    _write_labels(answers, calls, journal)


def check_budget(label: JudgeLabel, texts: Sequence[str], *, spent: int) -> None:
    """Refuse to begin what the budget cannot pay for.

    Raises:
        ConfigError: the calls are likely to cost more tokens than are left.
    """
    needed = sum(len(text.encode()) // BYTES_PER_TOKEN + label.reply_tokens for text in texts)
    if spent + needed > label.max_tokens:
        raise ConfigError(
            f"{len(texts)} calls of the judge may cost {needed:,} tokens, and label.max_tokens is "
            f"{label.max_tokens:,} ({spent:,} are spent); raise it, or draw fewer samples."
        )


def _comparisons(
    prompts: Mapping[str, CandidatePrompt], answers: Sequence[Answer]
) -> Iterator[JudgeQuestion]:
    by_prompt: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda one: one.sample):
        by_prompt.setdefault(answer.prompt_id, []).append(answer)
    for name, (base, *others) in by_prompt.items():
        for other in others:
            for swapped in (False, True):
                yield JudgeQuestion(prompts[name], base, other, swapped)


def _call(
    client: httpx.Client, label: JudgeLabel, one: JudgeQuestion, progress: Progress
) -> JudgeCall:
    body = {
        "model": label.model,
        "messages": [{"role": "user", "content": one.text(label)}],
        "temperature": 0,
        "max_tokens": label.reply_tokens,
    }
    found = _posted(client, label, body, progress)
    try:
        raw = str(found["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError):
        raw = str(found)[:1000]
    usage = found.get("usage") or {}
    tokens = usage.get("total_tokens") or len(str(body).encode()) // BYTES_PER_TOKEN
    letter = re.fullmatch(r"\W*([ABC])\W*", raw)  # "A good answer" is no vote for A
    choice = None if letter is None else SCORES[letter[1]] * (-1 if one.swapped else 1)
    name, sample, swapped = one.id
    return JudgeCall(
        prompt_id=name, sample=sample, swapped=swapped, choice=choice, raw=raw, tokens=tokens
    )


def _posted(
    client: httpx.Client, label: JudgeLabel, body: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """The endpoint's answer; failures that may pass are tried again, each after a longer wait."""
    why = ""
    for attempt in range(label.retries + 1):
        if attempt:
            progress.update(f"waiting for the judge ({why})", 0, 0)
            time.sleep(min(60.0, label.backoff * 2 ** (attempt - 1)))
        try:
            response = client.post(f"{label.url.rstrip('/')}/chat/completions", json=body)
        except httpx.TransportError as error:
            why = f"{type(error).__name__}: {error}"
            continue
        why = f"status {response.status_code}"
        if response.status_code < 300:
            return _parsed(label, response)
        if response.status_code < 400:
            raise ConfigError(f"the judge at {label.url} is elsewhere ({why}); correct label.url")
        if response.status_code < 500 and response.status_code not in PASSING:
            raise ConfigError(f"the judge at {label.url} refuses: {why}: {response.text[:200]}")
    raise Interrupted(
        f"the judge at {label.url} failed {label.retries + 1} times, at last with {why}; the same "
        "command goes on after the last call."
    )


def _parsed(label: JudgeLabel, response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"the judge at {label.url} replied with no JSON object: {response.text[:200]!r}. "
            "Correct label.url, which ends in /v1"
        )
    return found


def _headers(label: JudgeLabel) -> dict[str, str]:
    if label.key_file is None:
        return {}
    try:
        key = label.key_file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"label.key_file {label.key_file} cannot be read: {error}") from error
    if not re.fullmatch("[!-~]+", key):  # what httpx says of it would show the key
        raise ConfigError(f"label.key_file {label.key_file} does not hold one key, and only that")
    return {"Authorization": f"Bearer {key}"}


def _spent(calls: Journal[JudgeCall]) -> int:
    return sum(row.tokens for row in calls.rows)


def _write_labels(
    answers: Sequence[Answer], calls: Journal[JudgeCall], journal: Journal[AnswerLabel]
) -> None:
    """A label for each answer: 1 better than the prompt's first, -1 worse, 0 tied or the first."""
    choices: dict[tuple[str, int], list[float | None]] = {}
    for row in calls.rows:
        choices.setdefault((row.prompt_id, row.sample), []).append(row.choice)
    done = {(row.prompt_id, row.sample) for row in journal.rows}
    for answer in answers:
        name = (answer.prompt_id, answer.sample)
        if name not in done:
            score, detail = _verdict(choices.get(name, [0.0]))
            label = AnswerLabel(prompt_id=name[0], sample=name[1], score=score, detail=detail)
            journal.append(label)


def _verdict(choices: Sequence[float | None]) -> tuple[float | None, str]:
    if None in choices:
        return None, "the judge did not reply with A, B or C"
    return (choices[0] if len(set(choices)) == 1 else 0.0), ""
