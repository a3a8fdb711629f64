"""A prompt and answers to it, as a model would have written them."""

from alignment.answers.answer import Answer
from alignment.candidates.records import CandidatePrompt
from alignment.records.text import Message

PROMPT = CandidatePrompt(
    id="p", prompt=(Message(role="user", content="Ask"),), task_type="t", source="s"
)


def samples(texts):
    """Answers to `PROMPT` with these texts, one per sample."""
    return [
        Answer(
            prompt_id="p",
            sample=number,
            text=text,
            answer=text,
            tokens=1,
            logprob=0,
            stopped=True,
            seed=0,
        )
        for number, text in enumerate(texts)
    ]
