r"""Chats that a template has already turned into one text, read back into turns.

A column counts as transcripts if most of its first cells open with the marker of one template. So
a marker that a user typed into one row does not make turns of it. `\n\nHuman:` is one of them.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from alignment.data.formats.messages import ROLES

Turn = dict[str, object]


class Template(NamedTuple):
    """How a template marks turns.

    Attributes:
        opening: opens a turn; group 1 names the speaker.
        closing: closes a turn, and is no part of its text.
        speakers: names of speakers, in lower case, where they are not those of `ROLES`.
    """

    name: str
    opening: re.Pattern[str]
    closing: re.Pattern[str]
    speakers: Mapping[str, str] = ROLES


_NEVER = re.compile(r"(?!)")
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)

HUMAN = Template(
    "Human: / Assistant:", re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant):"), _NEVER
)
TEMPLATES = (
    Template(
        "ChatML",
        re.compile(r"<\|im_start\|>\s*(\w+)\s*?\n"),
        re.compile(r"<\|im_end\|>|<\|endoftext\|>"),
    ),
    Template(
        "Llama 3",
        re.compile(
            r"(?:\A\s*<\|begin_of_text\|>)?<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\s*"
        ),
        re.compile(r"<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>"),
    ),
    Template(
        "Gemma",
        re.compile(r"(?:\A\s*<bos>)?<start_of_turn>(\w+)\n"),
        re.compile(r"<end_of_turn>|<eos>"),
    ),
    Template(
        "Nemotron",
        re.compile(r"<extra_id_[01]>(System|User|Assistant)\n"),
        re.compile(r"<extra_id_1>(?=\s*\Z)"),
    ),
    Template(
        "Zephyr",
        re.compile(r"<\|(system|user|assistant)\|>\s*?\n"),
        re.compile(r"</s>|<\|end\|>|<\|endoftext\|>"),
    ),
    Template(
        "Llama 2",
        re.compile(r"(?:<s>\s*)?(\[/?INST\])"),
        re.compile(r"</s>"),
        {"[inst]": "user", "[/inst]": "assistant"},
    ),
    Template(
        "### Human: / ### Assistant:",
        re.compile(r"\s*### ?(Human|User|Assistant|System):"),
        _NEVER,
    ),
    HUMAN,
)


def template_of(text: str) -> Template | None:
    """The template with whose marker a text opens."""
    bare = text.lstrip()[:1]
    if bare not in ("<", "[", "#", "H"):
        return None
    return next((one for one in TEMPLATES if _opens(one, text)), None)


def turns(text: str, template: Template) -> list[Turn] | None:
    """The turns of a transcript, without a reply that is opened and left empty; None if it is none.

    A turn's text that still holds a marker is left to the filters.
    """
    if not _opens(template, text):
        return None
    _, *pieces = template.opening.split(text)
    made: list[Turn] = []
    for speaker, content in zip(pieces[::2], pieces[1::2], strict=True):
        role = template.speakers.get(speaker.lower())
        if role is None:
            return None
        made += _turn(role, without_closing(content, template))
    if len(made) > 1 and made[-1]["role"] == "assistant" and not made[-1]["content"]:
        made.pop()
    return made


def without_closing(text: str, template: Template) -> str:
    """A turn's text without the marker that closes it."""
    *before, end = template.closing.split(text)
    return text if len(before) != 1 or end.strip() else before[0]


def _opens(template: Template, text: str) -> bool:
    found = template.opening.search(text, 0, 400)
    return found is not None and not text[: found.start()].strip()


def _turn(role: str, content: str) -> list[Turn]:
    """The turn; for Llama 2, also the system turn inside the first user turn."""
    system = _SYSTEM.match(content) if role == "user" else None
    if system is None:
        return [{"role": role, "content": content.strip()}]
    rest: Turn = {"role": role, "content": content[system.end() :].strip()}
    return [{"role": "system", "content": system[1].strip()}, rest]
