"""The process in which verifiers run: one JSON line in, one out, for each answer.

    python -m alignment.candidates.checking '{"name": "pattern", "pattern": "yes"}' SECONDS

A user's function or a regular expression may raise, never return, print, or end its process; the
parent (`checker.py`) survives all of that. The first line out is {} once the check is ready.
"""

import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonschema import ValidationError, validate
from pydantic import TypeAdapter

from alignment.candidates.records import CheckRequest, CheckResult
from alignment.candidates.settings import (
    Check,
    FunctionCheck,
    JsonSchemaCheck,
    OwnCheck,
    PatternCheck,
)

Scorer = Callable[[CheckRequest], float]


def main(check: str, seconds: str) -> int:
    """Score the answers on the standard input until it ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a function prints is not taken for an answer
    try:
        scorer = scorer_of(TypeAdapter[Any](Check).validate_json(check))
    except Exception as error:  # a user's module may raise anything
        _say(out, CheckResult(error=_named(error)))
        return 1
    _say(out, CheckResult())
    for line in sys.stdin:
        # ends this process; the parent does so earlier, unless it is gone
        signal.setitimer(signal.ITIMER_REAL, 2 * float(seconds) + 1)
        result = _scored(scorer, CheckRequest.model_validate_json(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(out, result)
    return 0


def scorer_of(check: Check) -> Scorer:
    """The function that scores an answer by a check."""
    match check:
        case OwnCheck():
            return _by_own
        case PatternCheck():
            pattern = re.compile(check.pattern)
            return lambda request: bool(pattern.search(request.answer))
        case JsonSchemaCheck():
            return lambda request: _fits(request.answer, check.json_schema)
        case FunctionCheck():
            return _by_function(check)


def _by_own(request: CheckRequest) -> float:
    if request.verifier is None:
        raise LookupError("the prompt has no verifier of its own; name another check")
    return request.verifier(request.answer)


def _fits(answer: str, schema: object) -> bool:
    try:
        validate(json.loads(answer), schema)
    except (ValueError, RecursionError, ValidationError):
        return False
    return True


def _by_function(check: FunctionCheck) -> Scorer:
    module, name = check.entry.split(":")
    sys.path.insert(0, str(Path.cwd()))
    function = getattr(importlib.import_module(module), name)

    def score(request: CheckRequest) -> float:
        turns = [message.model_dump() for message in request.prompt]
        return float(function(turns, request.answer, request.reference))

    return score


def _scored(scorer: Scorer, request: CheckRequest) -> CheckResult:
    try:
        score = float(scorer(request))
    except Exception as error:
        return CheckResult(error=_named(error))
    if score != score or score in (float("inf"), float("-inf")):
        return CheckResult(error=f"the score is {score}, not a number")
    return CheckResult(score=score)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _say(out: Any, result: CheckResult) -> None:
    out.write(result.model_dump_json() + "\n")
    out.flush()


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
