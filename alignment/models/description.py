"""What a model folder holds, by its digests; or why it cannot be used."""

from pathlib import Path

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from alignment.errors import ModelError
from alignment.models.folder import (
    check_weights,
    one_line,
    stored_dtype,
    tokenizer_files,
    weight_files,
)
from alignment.records import BaseRef, TokenizerRef, digest_of
from alignment.store.store import file_sha256

VOCABULARY_FILES = ("tokenizer.json", "*.model", "vocab*")


def describe(folder: Path, uri: str, revision: str | None) -> tuple[BaseRef, TokenizerRef]:
    """The references to a folder of weights and its tokenizer, with their digests.

    Raises:
        ModelError: weights are missing, pickled or damaged; the architecture is unknown; there
            is no tokenizer or no chat template.
    """
    check_weights(folder)
    _check_architecture(folder)
    weights = digest_of([(file.name, file_sha256(file)) for file in weight_files(folder)])
    base = BaseRef(uri=uri, revision=revision, sha256=weights, dtype=stored_dtype(folder))
    return base, describe_tokenizer(folder, uri)


def describe_tokenizer(folder: Path, uri: str) -> TokenizerRef:
    """The reference to the tokenizer in a folder.

    Raises:
        ModelError: it cannot be loaded, has no chat template, or one that may not be rendered.
    """
    if not any(path for pattern in VOCABULARY_FILES for path in folder.glob(pattern)):
        # transformers makes an empty tokenizer of the model's kind, without a word
        raise ModelError(
            f"no usable tokenizer in {folder}: none of {', '.join(VOCABULARY_FILES)} is there. "
            "Copy the model's tokenizer files to it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"no usable tokenizer in {folder}: {one_line(error)}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer in {folder} has no chat template. Start from an instruct model, or add "
            "chat_template.jinja to the folder."
        )
    _check_template(tokenizer, folder)
    return TokenizerRef(
        uri=uri,
        sha256=digest_of([(file.name, file_sha256(file)) for file in tokenizer_files(folder)]),
        chat_template_sha256=digest_of(tokenizer.chat_template),
    )


def _check_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse a template that is none, or reaches for more than the chat it is given.

    The library renders templates in a sandbox; here its refusal becomes a sentence, before any
    work is done. What a template says against this chat itself is no reason to refuse it.
    """
    chat = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}]
    try:
        tokenizer.apply_chat_template(chat, tokenize=False)
    except (SecurityError, TemplateSyntaxError) as error:
        raise ModelError(
            f"the chat template in {folder} cannot be used: {one_line(error)}. Take the model "
            "from its makers, or replace chat_template.jinja."
        ) from error
    except TemplateError:
        return


def _check_architecture(folder: Path) -> None:
    try:  # left open, trust_remote_code is a question to whoever sits at the terminal
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"transformers cannot open the model in {folder}: {one_line(error)} "
            "Code that comes with a model is never run: take a model that transformers knows."
        ) from error
