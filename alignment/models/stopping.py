"""The tokens that end a reply: the one that training teaches, and those that a model knows already.

A chat template on a base model may teach a token that nothing in its folder names. Answers in here
would end, and those of a model that has left the store would not. So every export names it.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alignment.models.chat_template import end_of_turn_id, render_text
from alignment.models.tokenizer import load_tokenizer
from alignment.records.text import Message
from alignment.store.durable import write

_TURNS = tuple(Message(role=role, content="Text") for role in ("user", "assistant")) * 2


def stop_ids(
    tokenizer: PreTrainedTokenizerBase, configured: int | Sequence[int] | None
) -> tuple[int, ...]:
    """Ids of every token that ends a reply, the one of the chat template first.

    Args:
        tokenizer: the model's tokenizer.
        configured: `eos_token_id` of the model's generation config: one id, several or none.
    """
    known = [configured] if isinstance(configured, int) else [*(configured or ())]
    found = (end_of_turn_id(tokenizer), *known, tokenizer.eos_token_id)
    return tuple(dict.fromkeys(index for index in found if index is not None))


def named_stops(folder: Path) -> int | list[int] | None:
    """`eos_token_id` of a model folder: of its generation config, or without one of its config."""
    settings = _read(folder / "generation_config.json") or _read(folder / "config.json")
    named: int | list[int] | None = settings.get("eos_token_id")
    return named


def write_stops(folder: Path, origin: Path) -> None:
    """Name every stop token in an exported folder: generation config, config and tokenizer.

    Args:
        folder: an exported model or adapter with its tokenizer.
        origin: the folder of the base model, whose settings an adapter's folder lacks.
    """
    tokenizer = load_tokenizer(folder)
    config = _read(folder / "config.json") or _read(origin / "config.json")
    generation = _read(folder / "generation_config.json") or _read(
        origin / "generation_config.json"
    )
    named = generation.get("eos_token_id", config.get("eos_token_id"))
    stops = stop_ids(tokenizer, named)
    if ([named] if isinstance(named, int) else named) != [*stops]:
        kept = generation or {name: config.get(name) for name in ("bos_token_id", "pad_token_id")}
        _write(folder / "generation_config.json", {**kept, "eos_token_id": [*stops]})
        if (folder / "config.json").is_file():
            _write(folder / "config.json", {**config, "eos_token_id": [*stops]})
    stop = tokenizer.convert_ids_to_tokens(stops[0])
    if stop != tokenizer.eos_token and _renders_alike(tokenizer, str(stop)):
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).is_file():
                _write(folder / name, {**_read(folder / name), "eos_token": stop})


def _renders_alike(tokenizer: PreTrainedTokenizerBase, eos: str) -> bool:
    """Whether the template writes the same with another eos token; some write it themselves."""
    other = copy.deepcopy(tokenizer)
    other.eos_token = eos
    return render_text(other, _TURNS) == render_text(tokenizer, _TURNS)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    write("export.stops", path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
