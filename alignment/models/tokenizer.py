"""Loads the tokenizer of a base model, set up for training."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alignment.errors import ModelError
from alignment.models.hub import base_folder
from alignment.records import ModelRef
from alignment.store.store import Store


def open_tokenizer(ref: ModelRef, store: Store) -> PreTrainedTokenizerBase:
    """The tokenizer of a reference, with right padding."""
    return load_tokenizer(base_folder(ref.base, store))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, with right padding; EOS pads if there is no padding token.

    Raises:
        ModelError: the folder does not exist.
    """
    if not folder.is_dir():  # transformers would take its path for the name of a repository
        raise ModelError(f"model folder {folder} does not exist. Check the path.")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
