"""Calls a judge, an OpenAI-compatible endpoint; what may pass is tried again.

Not here: which calls (`ask_judge.py`).
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx

from alignment.candidates.budget import BYTES_PER_TOKEN, JudgeQuestion
from alignment.candidates.records import JudgeCall
from alignment.candidates.settings import JudgeLabel
from alignment.errors import ConfigError, Interrupted
from alignment.store.progress import Progress

PASSING = {408, 409, 425, 429}
"""Codes below 500 after which the same call may succeed."""
LONGEST_WAIT = 60.0
"""In seconds."""
SCORES = {"A": 1.0, "B": -1.0, "C": 0.0}


@contextlib.contextmanager
def asking(label: JudgeLabel, progress: Progress) -> Iterator[Callable[[JudgeQuestion], JudgeCall]]:
    """A function that makes one call.

    It raises:
        ConfigError: the endpoint refuses the call.
        Interrupted: the endpoint is overloaded or away.
    """
    with httpx.Client(timeout=label.seconds, headers=_headers(label)) as client:
        yield partial(_call, client, label, progress)


def _call(
    client: httpx.Client, label: JudgeLabel, progress: Progress, one: JudgeQuestion
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
    letter = re.fullmatch(r"\W*([ABC])\W*", raw)  # "A good answer" is no vote for A
    choice = None if letter is None else SCORES[letter[1]] * (-1 if one.swapped else 1)
    read, written = _used(found.get("usage"), body, label)
    name, sample, swapped = one.id
    return JudgeCall(
        prompt_id=name,
        sample=sample,
        swapped=swapped,
        choice=choice,
        raw=raw,
        tokens=read + written,
        cost=label.cost(read, written),
    )


def _used(usage: object, body: dict[str, Any], label: JudgeLabel) -> tuple[int, int]:
    """Tokens read and written; estimated, and rather high, where the endpoint does not say."""
    said = usage if isinstance(usage, dict) else {}
    read, written = said.get("prompt_tokens"), said.get("completion_tokens")
    if isinstance(read, int) and isinstance(written, int):
        return read, written
    total = said.get("total_tokens")
    if not isinstance(total, int):
        total = len(str(body).encode()) // BYTES_PER_TOKEN + label.reply_tokens
    written = min(total, label.reply_tokens)
    return total - written, written


def _posted(
    client: httpx.Client, label: JudgeLabel, body: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """The endpoint's answer; failures that may pass are tried again, each after a longer wait."""
    why, asked_for = "", 0.0
    for attempt in range(label.retries + 1):
        if attempt:
            progress.update(f"waiting for the judge ({why})", 0, 0)
            time.sleep(min(LONGEST_WAIT, max(asked_for, label.backoff * 2 ** (attempt - 1))))
        try:
            response = client.post(f"{label.url.rstrip('/')}/chat/completions", json=body)
        except httpx.TransportError as error:
            why = f"{type(error).__name__}: {error}"
            continue
        why, asked_for = f"status {response.status_code}", _retry_after(response)
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


def _retry_after(response: httpx.Response) -> float:
    """The seconds that the endpoint asks for; 0 if none, or if it names a date."""
    said = response.headers.get("Retry-After", "")
    return float(said) if re.fullmatch(r"\d{1,6}", said) else 0.0


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
