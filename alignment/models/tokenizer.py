"""Loads the tokenizer of a model, set up for training: padding, and a date that stays."""

import datetime
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alignment.errors import ModelError, one_line
from alignment.models.chat_template import written_tokens
from alignment.models.folder import RELATIVE, tokenizer_files
from alignment.models.hub import base_folder, check_unchanged
from alignment.models.template import DATE, ChatTemplate, dated, says_date
from alignment.records.refs import BaseRef, ModelRef, TokenizerRef
from alignment.store.durable import write
from alignment.store.store import Store

VOCABULARY_FILES = ("tokenizer.json", "*.model", "vocab*")


def open_tokenizer(ref: ModelRef, store: Store) -> PreTrainedTokenizerBase:
    """The tokenizer of a reference, with right padding and the reference's date."""
    date = ref.tokenizer.date and datetime.date.fromisoformat(ref.tokenizer.date)
    return load_tokenizer(tokenizer_folder(ref.base, ref.tokenizer, store), date=date or DATE)


def tokenizer_folder(base: BaseRef, tokenizer: TokenizerRef | None, store: Store) -> Path:
    """Where a model's tokenizer lies: with its weights, or by itself if its template is another.

    Raises:
        ModelError: it is in a folder of the user, and no longer the one of the reference.
    """
    if tokenizer is None or tokenizer.uri == base.uri:
        folder = base_folder(base, store)
        if tokenizer is not None and base.uri.startswith("folder:"):
            check_unchanged(folder, tokenizer_files(folder), tokenizer.sha256)
        return folder
    return store.path(tokenizer.uri)


def load_tokenizer(folder: Path, *, date: datetime.date = DATE) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, with right padding; EOS pads if there is no usable padding token.

    Args:
        folder: a folder in the format of `save_pretrained`.
        date: what a chat template that says today's date says instead.

    Raises:
        ModelError: there is no usable tokenizer, or its model cannot embed a token of the template.
    """
    return _set_up(read_tokenizer(folder), folder, date)


def _set_up(
    tokenizer: PreTrainedTokenizerBase, folder: Path, date: datetime.date
) -> PreTrainedTokenizerBase:
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= embedding_rows(folder):
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = dated(tokenizer.chat_template, date)
        _check_embedded(tokenizer, embedding_rows(folder))
    return tokenizer


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder as it is; of several chat templates, with the default one.

    transformers would render rows with tools under another template than the rest, and only the
    default one goes with a merge.

    Raises:
        ModelError: the folder or the tokenizer does not exist, or it would need its own code.
    """
    if not folder.is_dir():  # transformers would take its path for the name of a repository
        raise ModelError(f"model folder {folder} does not exist. Check the path; {RELATIVE}.")
    if not any(path for pattern in VOCABULARY_FILES for path in folder.glob(pattern)):
        # Without these files transformers silently creates an empty tokenizer of the model's kind.
        raise ModelError(
            f"no usable tokenizer in {folder}: found none of {', '.join(VOCABULARY_FILES)}. "
            "Copy the model's tokenizer files to it."
        )
    try:
        found: PreTrainedTokenizerBase
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"no usable tokenizer in {folder}: {one_line(error)}") from error
    if isinstance(found.chat_template, dict):
        found.chat_template = found.chat_template.get("default")
    return found


def _check_embedded(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse a template whose tokens the model cannot embed; training would fail at the first."""
    highest, text = max(written_tokens(tokenizer).items(), default=(0, ""))
    if highest >= rows:
        raise ModelError(
            f"the chat template writes {text!r}, token {highest}, but the model embeds only {rows} "
            "tokens: the token was added and the embedding not resized. Resize it, or set "
            "template: {name: file, path: ...} to a template without that token."
        )


def tokenizer_with(template: ChatTemplate, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder with the chat template of a run, before there is a store.

    Raises:
        ModelError: the folder does not exist, or the template cannot be found.
    """
    tokenizer = read_tokenizer(folder)
    if template.changes:
        tokenizer.chat_template = template.text(tokenizer)
    return _set_up(tokenizer, folder, template.date)


def date_of(template: ChatTemplate, folder: Path) -> datetime.date | None:
    """The date that the template of a run says instead of today's; None if it says none."""
    own = read_tokenizer(folder)
    text = template.text(own) if template.changes else own.chat_template
    return template.date if says_date(str(text)) else None


def write_date(folder: Path, tokenizer: TokenizerRef | None) -> None:
    """Let the chat template in an exported folder say the date under which it was measured."""
    if tokenizer is None or tokenizer.date is None:
        return
    date = datetime.date.fromisoformat(tokenizer.date)
    for file in folder.glob("*.jinja"):
        write("export.template", file, dated(file.read_text(encoding="utf-8"), date))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(settings.get("chat_template"), str):
        settings["chat_template"] = dated(settings["chat_template"], date)
        write("export.date", path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def embedding_rows(folder: Path) -> int:
    """How many tokens the model in a folder can embed, by its config; no limit if it says none."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    return int(found) if found else sys.maxsize
