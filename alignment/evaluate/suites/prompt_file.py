"""A suite from a file: prompts and what their replies have to pass, one JSON object a line.

    {"prompt": "What is 1/4 + 1/4?", "verifier": {"name": "math_answer", "answer": "1/2"}}

Files of IFEval are read as they are published (`key`, `prompt`, `instruction_id_list`, `kwargs`).
Not here: the verifiers (`data/verifiers.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from alignment.data.verifiers import Instructions, VerifiablePrompt, Verifier, check_installed
from alignment.errors import DataError
from alignment.records.base import Frozen, digest_of
from alignment.records.text import Message, Prompt
from alignment.store.checksum import file_sha256

ITEMS = 3
"""Version of the items; increased when the same file gives others."""

_VERIFIER: TypeAdapter[Verifier] = TypeAdapter(Verifier)


class PromptFile(Frozen):
    """Prompts with verifiers from a JSON Lines file."""

    name: Literal["file"] = "file"
    path: Path = Field(
        description="JSON Lines with `prompt` (a text or messages) and `verifier`, and perhaps "
        "`task_type`; or IFEval's own columns."
    )
    limit: PositiveInt | None = Field(default=None, description="Use only the first prompts.")

    def digest(self) -> str:
        """Identifies the items in cache keys, after reading them all.

        Raises:
            DataError: the file cannot be read, or a line is not a prompt with a verifier.
            ConfigError: a verifier needs a package that is not installed.
        """
        for prompt in self.prompts():
            check_installed(prompt.verifier)
        return digest_of([ITEMS, file_sha256(self.path), self.limit])

    def prompts(self) -> Iterator[VerifiablePrompt]:
        """The items in the order of the file.

        Raises:
            DataError: the file cannot be read, or a line is not a prompt with a verifier.
        """
        try:
            # `splitlines` would also split at a U+2028 or U+0085 within a text
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"evaluation.suites: {self.path} cannot be read: {error}") from error
        written = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
        for number, line in written[: self.limit]:
            yield self._parsed(number, line)

    def _parsed(self, number: int, line: str) -> VerifiablePrompt:
        try:
            row = json.loads(line)
            prompt, verifier = _turns(row["prompt"]), _verifier(row)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{self.path}, line {number}: {_reason(error)}. A line is a JSON object with "
                "`prompt` and `verifier` (docs/evaluation.md)."
            ) from error
        # with the verifier: the same prompt in another file, or checked otherwise, is another item
        asked = Prompt.of(prompt, task_type="", source="").id
        task, source = str(row.get("task_type", self.path.stem)), self.path.stem
        return VerifiablePrompt(
            id=digest_of([asked, number, verifier.model_dump(mode="json")])[:16],
            prompt=prompt,
            verifier=verifier,
            task_type=task,
            source=source,
            unseen=True,
        )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join((*(f"{part}" for part in first["loc"]), first["msg"]))
    return str(error).splitlines()[0]


def _turns(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(Message.model_validate(turn) for turn in prompt)


def _verifier(row: dict[str, Any]) -> Verifier:
    if "instruction_id_list" not in row:
        return _VERIFIER.validate_python(row["verifier"])
    arguments = row.get("kwargs") or [{} for _ in row["instruction_id_list"]]
    return Instructions(
        ids=row["instruction_id_list"],
        arguments=[{key: value for key, value in each.items() if value} for each in arguments],
        prompt=row["prompt"],
    )
