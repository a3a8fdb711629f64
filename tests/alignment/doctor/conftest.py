"""Prepared sets from a few rows, encoded with a real tokenizer."""

from collections import Counter

import pytest

from alignment.data.build.report import PreparationReport, SourceReport
from alignment.doctor.sets import PreparedSet
from alignment.doctor.tokens import encode_chats, encode_pairs
from alignment.records.text import Conversation, Message, PreferencePair, Quarantined


def pair(prompt, chosen, rejected, *, strength=None, source="notes"):
    return PreferencePair.of(
        (Message(role="user", content=prompt),),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        task_type="general",
        source=source,
        strength=strength,
    )


def chat(question, answer):
    return Conversation.of(
        (Message(role="user", content=question), Message(role="assistant", content=answer)),
        task_type="general",
        source="notes",
    )


def dropped(**reasons):
    """Quarantined rows: this many for each reason."""
    return [
        Quarantined(file="notes.jsonl", row=row, reason=reason, detail="as found")
        for reason, count in reasons.items()
        for row in range(1, count + 1)
    ]


@pytest.fixture
def pair_set(chatml_tokenizer):
    """A function that makes a round's set of pairs, with defaults for everything else."""

    def make(
        pairs=(),
        *,
        name="pairs-1",
        whole=4096,
        prompt=2048,
        quarantined=(),
        held_out=(),
        unread=None,
    ):
        counts = dict(Counter(row.reason for row in quarantined))
        report = SourceReport(
            source="notes.jsonl",
            format="preference",
            reason="columns prompt, chosen, rejected",
            read=len(pairs) + len(quarantined) + len(held_out),
            kept=len(pairs),
            held_out=len(held_out),
            dropped=counts,
            unread=unread or {},
        )
        return PreparedSet(
            name=name,
            key=f"key of {name}",
            whole=whole,
            prompt=prompt,
            train=pairs,
            held_out=held_out,
            dropped=quarantined,
            report=PreparationReport(sources=(report,)),
            pairs=encode_pairs(chatml_tokenizer, pairs),
        )

    return make


@pytest.fixture
def chat_set(chatml_tokenizer):
    """The same for conversations."""

    def make(chats, *, whole=4096):
        return PreparedSet(
            name="conversations",
            key="key of conversations",
            whole=whole,
            prompt=None,
            train=chats,
            chats=encode_chats(chatml_tokenizer, chats),
        )

    return make
