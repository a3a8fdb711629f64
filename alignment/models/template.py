"""Which chat template a run uses: the model's own, that of a file, or TRL's for training.

The chosen template is written to the store with the base model and goes with it from there: into
every stage, every merge and every export. Not here: rendering (`chat_template.py`).
"""

import datetime
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field

from alignment.errors import ModelError
from alignment.records.base import Frozen
from alignment.store.checksum import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = datetime.date(2026, 1, 1)
_NOW = re.compile(r"""strftime_now\(\s*(["'])([^"'\\]*)\1\s*\)""")
_ANY_NOW = re.compile(r"strftime_now\s*\(")
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
_FOLD = (
    "{%- if messages|length > 1 and messages[0]['role'] == 'system' "
    "and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + "
    "messages[1]['content']}] + messages[2:] -%}{%- endif -%}"
)


class ChatTemplate(Frozen, ABC):
    """The chat template of a run. Abstract."""

    date: datetime.date = Field(
        default=DATE,
        description="What a template that says today's date says instead (Llama-3.2, SmolLM3, "
        "Granite, gpt-oss), so that a run is the same on another day. Exports say it too.",
    )
    system: Literal["turn", "into_user"] = Field(
        default="turn",
        description="What becomes of system turns. `into_user`: their text begins the first user "
        "turn, for templates that refuse system turns (Gemma, Mistral).",
    )

    @abstractmethod
    def source(self, tokenizer: "PreTrainedTokenizerBase") -> str | None:
        """The template's text, before system turns are folded; None if there is none."""

    @property
    def changes(self) -> bool:
        """Whether the template is another than that in the model's folder."""
        return not isinstance(self, ModelTemplate) or self.system != "turn"

    def digest(self) -> str:
        """What its settings do not say about it, for a step's key."""
        return ""

    def text(self, tokenizer: "PreTrainedTokenizerBase") -> str | None:
        """The template's text."""
        source = self.source(tokenizer)
        return source if source is None or self.system == "turn" else _FOLD + source


class ModelTemplate(ChatTemplate):
    """The template in the model's folder."""

    name: Literal["model"] = "model"

    def source(self, tokenizer: "PreTrainedTokenizerBase") -> str | None:
        """The tokenizer's own."""
        return cast(str | None, tokenizer.chat_template)


class FileTemplate(ChatTemplate):
    """A template from a file."""

    name: Literal["file"] = "file"
    path: Path = Field(description="A Jinja file, e.g. chat_template.jinja.")

    def source(self, tokenizer: "PreTrainedTokenizerBase") -> str | None:
        """The content of the file, without a byte order mark."""
        del tokenizer
        self._check()
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ModelError(
                f"template.path {self.path} is not UTF-8. Save it as UTF-8."
            ) from error
        if not text.strip():
            raise ModelError(f"template.path {self.path} is empty. Check the path.")
        return text

    def digest(self) -> str:
        """The digest of the file."""
        self._check()
        return file_sha256(self.path)

    def _check(self) -> None:
        if not self.path.is_file():
            what = "is no file" if self.path.exists() else "does not exist"
            raise ModelError(f"template.path {self.path} {what}. Check the path.")


class TrlTemplate(ChatTemplate):
    """TRL's training version of the model's template, which renders all replies alike.

    TRL knows the templates of many families by their text; docs of TRL list them.
    """

    name: Literal["trl"] = "trl"

    def source(self, tokenizer: "PreTrainedTokenizerBase") -> str | None:
        """TRL's version, without the marks around replies, which other programs may not know."""
        from trl.chat_template_utils import get_training_chat_template

        try:
            found = get_training_chat_template(tokenizer)
        except ValueError as error:
            raise ModelError(
                "TRL has no training version of this model's chat template. Set "
                "template: {name: model}, or name a file."
            ) from error
        text = found or cast(str | None, tokenizer.chat_template)
        return text and _GENERATION.sub(
            lambda mark: f"{mark[1]}{'endif' if mark[2] else 'if true'}{mark[3]}", text
        )


Template = Annotated[ModelTemplate | FileTemplate | TrlTemplate, Field(discriminator="name")]


def says_date(text: str) -> bool:
    """Whether a template says today's date."""
    return _ANY_NOW.search(text) is not None


def dated(text: str, date: datetime.date) -> str:
    """A template that says this date instead of today's.

    Raises:
        ModelError: it computes how to write the date, so the date cannot be put in its place.
    """
    found = _NOW.sub(lambda call: repr(date.strftime(call[2])), text)
    if call := _ANY_NOW.search(found):
        raise ModelError(
            f"the chat template says today's date ({found[call.start() :][:40]!r}) in a form that "
            "cannot be fixed, so a run would differ from day to day. Set template: {name: file, "
            "path: ...} to a copy with strftime_now('%d %B %Y') or the like there."
        )
    return found
