"""Formats that give conversations to imitate."""

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from alignment.data.formats.base import (
    Columns,
    Kind,
    RowFormat,
    first_present,
    has_any,
    is_answer,
    is_chat,
    is_list,
    is_talk,
    is_text,
    mostly,
)
from alignment.data.formats.messages import describe, is_message, text
from alignment.data.formats.rows import MORE, RawRow, exchange
from alignment.data.row import Reason, Rejected
from alignment.records.text import Conversation

CHATS = ("conversations", "conversation", "dialogue", "dialog", "chat", "text")
"""Columns that hold chats, besides `messages`."""
PREFERENCES = (
    "chosen",
    "rejected",
    "chosen_messages",
    "rejected_messages",
    "rejected_response",
    "preferred_output",
    "non_preferred_output",
)
"""Columns beside which a chat is part of a pair, not a chat to imitate."""

_QUESTIONS = ("instruction", "prompt", "question", "query")
"""Columns beside which `input` is only more of the question."""
_CALCULATOR = re.compile(r"<<[^<>]*>>")


class Messages(RowFormat):
    """A chat as a list of `{role, content}`; a column `tools` lists the functions it may call."""

    expects: ClassVar[str] = "messages: a list of {role, content}"
    reads: ClassVar[str] = (
        "every turn, with its tool calls, reasoning_content and name; content may be parts"
    )
    columns: ClassVar[tuple[str, ...]] = ("messages",)
    gives: ClassVar[Kind] = "conversations"
    name: Literal["messages"] = "messages"

    def detects(self, columns: Columns) -> str | None:
        """By a column `messages` of lists, unless they are part of pairs or all are prompts."""
        if has_any(columns, PREFERENCES) or ends_with_user(columns, "messages"):
            return None
        return "column messages holds lists" if mostly(columns, "messages", is_list) else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The chat."""
        yield row.conversation(row.messages("messages"))


class ShareGpt(RowFormat):
    """A chat as a list of `{from, value}`, of `{human, assistant}`, or of alternating texts."""

    expects: ClassVar[str] = (
        "conversations (or conversation, dialogue, dialog, chat, text): a list of {from, value}, "
        "of {human, assistant}, or of texts in turn"
    )
    reads: ClassVar[str] = "every turn: system, human, gpt, function_call, observation"
    columns: ClassVar[tuple[str, ...]] = ("conversations",)
    gives: ClassVar[Kind] = "conversations"
    name: Literal["sharegpt"] = "sharegpt"

    def detects(self, columns: Columns) -> str | None:
        """By a column of chats, unless they are part of pairs or all are prompts."""
        column = first_present(columns, CHATS, is_talk)
        if not column or has_any(columns, PREFERENCES) or ends_with_user(columns, column):
            return None
        return f"column {column} holds chats"

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The chat."""
        columns = (name for name in CHATS if isinstance(row.fields.get(name), list))
        yield row.conversation(row.messages(next(columns, CHATS[0])))


class Contents(RowFormat):
    """A chat as Gemini and Vertex have it: `{role, parts}`, the system turn beside it."""

    expects: ClassVar[str] = "contents: a list of {role, parts: [{text}]}; systemInstruction"
    reads: ClassVar[str] = "every turn: user, model, functionCall, functionResponse"
    columns: ClassVar[tuple[str, ...]] = ("contents",)
    gives: ClassVar[Kind] = "conversations"
    name: Literal["contents"] = "contents"

    def detects(self, columns: Columns) -> str | None:
        """By a column `contents` of lists, unless scored completions are beside it."""
        chats = mostly(columns, "contents", is_list) and not columns.get("completions")
        return "column contents holds lists" if chats else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The chat."""
        yield row.conversation(row.messages("contents"))


class Instruction(RowFormat):
    """One question and one answer, in columns of any name: Alpaca's, or prompt and response."""

    expects: ClassVar[str] = (
        "instruction, output: texts, messages or lists of messages; optionally input: more of the "
        "question "
        "(for other names: {name: instruction, instruction: question, output: answer})"
    )
    reads: ClassVar[str] = "the question, with input or context below it, and the answer"
    columns: ClassVar[tuple[str, ...]] = ("instruction", "output")
    gives: ClassVar[Kind] = "conversations"
    name: Literal["instruction"] = "instruction"
    instruction: str = Field(
        default="instruction", description="Column of the instruction or question."
    )
    input: str = Field(
        default="input",
        description="Column of the input to the instruction, placed below it. May be missing.",
    )
    output: str = Field(default="output", description="Column of the answer.")

    def detects(self, columns: Columns) -> str | None:
        """By its instruction and output columns, unless they are part of pairs."""
        if has_any(columns, PREFERENCES) or not mostly(columns, self.instruction, _is_said):
            return None
        if self.instruction == "input" and has_any(columns, _QUESTIONS):
            return None
        answers = mostly(columns, self.output, lambda one: is_answer(one) or _is_said(one))
        return f"columns {self.instruction}, {self.output}" if answers else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The question and its answer."""
        if any(_is_turn(row.fields.get(name)) for name in (self.instruction, self.output)):
            prompt = row.turns(self.instruction, role="user")
            yield row.conversation(prompt + row.turns(self.output, role="assistant"))
            return
        question = row.question(self.instruction)
        if self.input not in MORE and row.fields.get(self.input) is not None:
            question = f"{question}\n\n{row.text(self.input)}".strip()
        yield row.conversation(exchange(question, row.text(self.output)))


class Instances(RowFormat):
    """One instruction and several instances of it (Wang et al. 2023, Self-Instruct)."""

    expects: ClassVar[str] = "instruction: text, and instances: a list of {input, output}"
    reads: ClassVar[str] = "one chat for each instance, its input below the instruction"
    columns: ClassVar[tuple[str, ...]] = ("instruction", "instances")
    gives: ClassVar[Kind] = "conversations"
    name: Literal["instances"] = "instances"

    def detects(self, columns: Columns) -> str | None:
        """By an instruction and a list of instances."""
        found = mostly(columns, "instruction", is_text) and mostly(columns, "instances", is_list)
        return "columns instruction, instances" if found else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """One conversation per instance."""
        instruction, instances = row.text("instruction"), row.get("instances")
        if not isinstance(instances, list) or not instances:
            raise Rejected(
                Reason.malformed, f"instances holds {describe(instances)}, not a non-empty list"
            )
        for at, instance in enumerate(instances):
            fields = instance if isinstance(instance, dict) else {}
            row.left.update(f"instances[].{key}" for key in fields.keys() - {"input", "output"})
            input_ = text(fields.get("input", ""), where=f"instances[{at}]: input")
            output = text(fields.get("output"), where=f"instances[{at}]: output")
            yield row.conversation(exchange(f"{instruction}\n\n{input_}".strip(), output))


class Gsm8k(RowFormat):
    """Grade-school problems whose answers end in `#### number` (Cobbe et al. 2021)."""

    expects: ClassVar[str] = "question, answer: texts, the answer ending in '#### number'"
    reads: ClassVar[str] = "the problem and its answer"
    columns: ClassVar[tuple[str, ...]] = ("question", "answer")
    outranks: ClassVar[tuple[str, ...]] = ("instruction",)
    gives: ClassVar[Kind] = "conversations"
    note: ClassVar[str] = "calculator annotations such as <<48/2=24>> are removed from the answers"
    name: Literal["gsm8k"] = "gsm8k"

    def detects(self, columns: Columns) -> str | None:
        """By a question column and answers with a `####` line."""
        marked = mostly(columns, "question", is_text) and mostly(columns, "answer", _has_result)
        return "columns question, answer, and answers end in '#### number'" if marked else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The problem and its answer, without calculator annotations."""
        answer = without_calculator(row.text("answer"))
        yield row.conversation(exchange(row.text("question"), answer))


def without_calculator(solution: str) -> str:
    """A solution without the calculator annotations that GSM8K adds for training."""
    return _CALCULATOR.sub("", solution).strip()


def _has_result(value: object) -> bool:
    return isinstance(value, str) and "\n#### " in value


def ends_with_user(columns: Columns, name: str) -> bool:
    """Whether all chats of a column end with the user's turn, so that they are prompts."""
    chats = [value for value in columns.get(name, ()) if isinstance(value, list) and value]
    return bool(chats) and all(is_message(one[-1]) and _speaker(one[-1]) in _USERS for one in chats)


def _is_turn(value: object) -> bool:
    return is_message(value) or is_chat(value)


def _is_said(value: object) -> bool:
    return is_text(value) or _is_turn(value)


_USERS = ("user", "human", "prompter")


def _speaker(message: dict[str, object]) -> str:
    return str(message.get("from", message.get("role"))).strip().lower()
