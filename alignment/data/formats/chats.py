"""Formats that give conversations to imitate."""

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from alignment.data.formats.base import Columns, Kind, RowFormat, is_chat, is_list, is_text, mostly
from alignment.data.formats.rows import RawRow, describe, exchange, text
from alignment.data.row import Reason, Rejected
from alignment.records import Conversation

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_REPLIES = {"chosen", "rejected", "chosen_messages", "rejected_messages"}


class Messages(RowFormat):
    """A chat as a list of `{role, content}`; a column `tools` lists the functions it may call."""

    expects: ClassVar[str] = "messages: a list of {role, content}"
    gives: ClassVar[Kind] = "conversations"
    name: Literal["messages"] = "messages"

    def detects(self, columns: Columns) -> str | None:
        """By a column `messages` of lists, unless a boolean `label` rates them."""
        if mostly(columns, "label", lambda value: isinstance(value, bool)):
            return None
        return "column messages holds lists" if mostly(columns, "messages", is_list) else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The chat."""
        yield row.conversation(row.messages("messages"))


class ShareGpt(RowFormat):
    """A chat as a list of `{from, value}`: system, human, gpt, function_call, observation."""

    expects: ClassVar[str] = "conversations: a list of {from, value}"
    gives: ClassVar[Kind] = "conversations"
    name: Literal["sharegpt"] = "sharegpt"

    def detects(self, columns: Columns) -> str | None:
        """By a column `conversations` of chats, unless chosen or rejected replies are beside it."""
        chats = not _REPLIES & columns.keys() and mostly(columns, "conversations", is_chat)
        return "column conversations holds chats" if chats else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The chat."""
        yield row.conversation(row.messages("conversations"))


class Instruction(RowFormat):
    """One question and one answer, in columns of any name: Alpaca's, or prompt and response."""

    expects: ClassVar[str] = (
        "instruction, output: texts; optionally input: more of the question "
        "(for other names: {name: instruction, instruction: question, output: answer})"
    )
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
        """By its instruction and output columns as texts, unless a boolean `label` rates them."""
        names = (self.instruction, self.output)
        texts = all(mostly(columns, name, is_text) for name in names)
        judged = mostly(columns, "label", lambda value: isinstance(value, bool))
        return f"columns {', '.join(names)}" if texts and not judged else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """The question and its answer."""
        question = row.text(self.instruction)
        if row.fields.get(self.input) is not None:
            question = f"{question}\n\n{row.text(self.input)}".strip()
        yield row.conversation(exchange(question, row.text(self.output)))


class Instances(RowFormat):
    """One instruction and several instances of it (Wang et al. 2023, Self-Instruct)."""

    expects: ClassVar[str] = "instruction: text, and instances: a list of {input, output}"
    gives: ClassVar[Kind] = "conversations"
    name: Literal["instances"] = "instances"

    def detects(self, columns: Columns) -> str | None:
        """By an instruction and a list of instances."""
        found = mostly(columns, "instruction", is_text) and mostly(columns, "instances", is_list)
        return "columns instruction, instances" if found else None

    def parse(self, row: RawRow) -> Iterator[Conversation]:
        """One conversation per instance."""
        instruction, instances = row.text("instruction"), row.fields.get("instances")
        if not isinstance(instances, list) or not instances:
            raise Rejected(
                Reason.malformed, f"instances holds {describe(instances)}, not a non-empty list"
            )
        for at, instance in enumerate(instances):
            fields = instance if isinstance(instance, dict) else {}
            input_ = text(fields.get("input", ""), where=f"instances[{at}]: input")
            output = text(fields.get("output"), where=f"instances[{at}]: output")
            yield row.conversation(exchange(f"{instruction}\n\n{input_}".strip(), output))


class Gsm8k(RowFormat):
    """Grade-school problems whose answers end in `#### number` (Cobbe et al. 2021)."""

    expects: ClassVar[str] = "question, answer: texts, the answer ending in '#### number'"
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
