"""Turns the tokens that an engine wrote into an answer."""

from transformers import PreTrainedTokenizerBase

from alignment.answers.answer import Answer
from alignment.answers.request import Written
from alignment.models.chat_template import answer_of, opens_thought


def read_answer(tokenizer: PreTrainedTokenizerBase, written: Written) -> Answer:
    """The answer as text, with and without its thought."""
    ids = list(written.tokens)
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    return Answer(
        prompt_id=written.request.prompt_id,
        sample=written.request.sample,
        text=text,
        answer=without_thought(tokenizer, str(tokenizer.decode(ids)), text),
        tokens=len(ids),
        logprob=written.logprob,
        stopped=written.stopped,
        seed=written.request.seed,
    )


def without_thought(tokenizer: PreTrainedTokenizerBase, raw: str, text: str) -> str:
    """The answer after its thought, which may be marked by special tokens that `text` lacks."""
    begun = f"<think>{raw}" if opens_thought(tokenizer) else raw
    answer = answer_of(begun)
    if answer == begun:
        return text
    for special in tokenizer.all_special_tokens:
        answer = answer.replace(special, "")
    return answer
