"""References to a model folder's weights and tokenizer, or why the folder cannot be used."""

import datetime
import shutil
from pathlib import Path

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from transformers import AutoConfig, PreTrainedTokenizerBase

from alignment.errors import ModelError, one_line
from alignment.models.folder import (
    check_weights,
    digest_of_files,
    stored_dtype,
    tokenizer_files,
    weight_files,
)
from alignment.models.template import DATE, ChatTemplate, dated, says_date
from alignment.models.tokenizer import read_tokenizer
from alignment.models.weight_files import blank_model
from alignment.records.base import digest_of
from alignment.records.refs import BaseRef, TokenizerRef
from alignment.store.durable import staged


def describe(folder: Path, uri: str, revision: str | None) -> tuple[BaseRef, TokenizerRef]:
    """References to the weights and the tokenizer in a folder, with their digests.

    Raises:
        ModelError: weights are missing, pickled or damaged; the architecture is unknown; there
            is no tokenizer or no usable chat template.
    """
    return describe_base(folder, uri, revision), describe_tokenizer(folder, uri)


def describe_base(folder: Path, uri: str, revision: str | None) -> BaseRef:
    """The reference to the weights in a folder.

    Raises:
        ModelError: they are missing, pickled or damaged, or the architecture is unknown.
    """
    check_weights(folder)
    blank_model(folder)
    weights = digest_of_files(weight_files(folder))
    return BaseRef(uri=uri, revision=revision, sha256=weights, dtype=stored_dtype(folder))


def write_tokenizer(folder: Path, template: ChatTemplate, target: Path) -> None:
    """Write a folder's tokenizer with another chat template to a folder of its own.

    Raises:
        ModelError: the tokenizer cannot be loaded, or the template does not exist.
    """
    text = template.text(read_tokenizer(folder))
    with staged("tokenizer.save", target) as place:
        place.mkdir()
        for file in tokenizer_files(folder):
            if file.suffix != ".jinja":
                shutil.copy(file, place / file.name)
        shutil.copy(folder / "config.json", place / "config.json")  # says what can be embedded
        if text:
            (place / "chat_template.jinja").write_text(text, encoding="utf-8")


def describe_tokenizer(
    folder: Path, uri: str, *, date: datetime.date | None = None
) -> TokenizerRef:
    """The reference to the tokenizer in a folder; `date` is what its template says, if it says any.

    Raises:
        ModelError: it cannot be loaded, has no chat template, or one that cannot be rendered.
    """
    tokenizer = read_tokenizer(folder)
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer in {folder} has no chat template. Start from an instruct model, set "
            "template: {name: file, path: ...}, or add chat_template.jinja to the folder."
        )
    _check_template(tokenizer, folder)
    said = date if says_date(str(tokenizer.chat_template)) else None
    dated(str(tokenizer.chat_template), date or DATE)
    return TokenizerRef(
        uri=uri,
        sha256=digest_of_files(tokenizer_files(folder)),
        chat_template_sha256=digest_of(tokenizer.chat_template),
        date=said and said.isoformat(),
    )


def _check_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse a template with invalid syntax, or one that tries to leave Jinja's sandbox.

    transformers renders templates in a sandbox; this check reports a violation before any work is
    done. A template that rejects this particular chat (`TemplateError`) is accepted.
    """
    chat = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}]
    try:
        tokenizer.apply_chat_template(chat, tokenize=False)
    except (SecurityError, TemplateSyntaxError) as error:
        raise ModelError(
            f"the chat template in {folder} cannot be used: {one_line(error)}. Get the model "
            "from its original publisher, or replace chat_template.jinja."
        ) from error
    except TemplateError:
        return


def check_architecture(folder: Path) -> None:
    """Refuse a model that transformers itself has no code for.

    Raises:
        ModelError: it is unknown, or would need code from its folder.
    """
    try:  # if trust_remote_code is unset, transformers asks the user interactively
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"transformers cannot open the model in {folder}: {one_line(error)} "
            "Code shipped with a model is never run: use a model that transformers supports."
        ) from error
