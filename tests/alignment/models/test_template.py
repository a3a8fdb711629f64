"""The template of a run: the model's own, a file's or TRL's; its date, and where it goes."""

import copy
import datetime
import json
import shutil
from importlib.resources import files

import pytest
from pydantic import ValidationError

from alignment.compose.export import export
from alignment.config.pipeline import PipelineConfig
from alignment.errors import ModelError
from alignment.execution.run_step import build
from alignment.models.chat_template import render_text
from alignment.models.encoding import encode_chat
from alignment.models.merge import plan_merge, write_merge
from alignment.models.sources import FolderModel
from alignment.models.template import FileTemplate, ModelTemplate, TrlTemplate
from alignment.models.tokenizer import (
    date_of,
    load_tokenizer,
    open_tokenizer,
    read_tokenizer,
    tokenizer_with,
)
from alignment.pipeline.chain_builder import chain
from alignment.pipeline.steps import OpenBase
from alignment.records.refs import AdapterRef, ModelRef
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests.chats import DATED, talk, with_template

OWN = ModelTemplate()
ASK = talk("Which day is it?", "Today.")


@pytest.fixture
def folder(tmp_path, tiny_model_folder):
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def opened(folder, store, template=OWN):
    """The base model's record, as a run makes it."""
    source = FolderModel(path=folder)
    digest = source.digest() + template.digest()
    step = OpenBase(name="base", source=source, quantisation=None, digest=digest, template=template)
    return build(store, step, Progress())


def test_a_template_that_says_todays_date_says_the_same_every_day(folder, tmp_path):
    (folder / "chat_template.jinja").write_text(DATED)
    assert "Today is 01 January 2026." in render_text(load_tokenizer(folder), ASK)
    store = Store(root=tmp_path / "store")
    record = opened(folder, store, ModelTemplate(date=datetime.date(2025, 3, 9)))
    assert "the chat template says the date: always 2025-03-09" in record.notes
    ref = ModelRef.model_validate(record.output)
    assert "Today is 09 March 2025." in render_text(open_tokenizer(ref, store), ASK)
    other = ref.model_copy(update={"tokenizer": ref.tokenizer.model_copy(update={"date": None})})
    assert ref.ref_hash != other.ref_hash


def test_only_a_template_that_says_the_date_has_one(folder):
    template = ModelTemplate(date=datetime.date(2025, 3, 9))
    assert date_of(template, folder) is None
    (folder / "chat_template.jinja").write_text(DATED)
    assert date_of(template, folder) == datetime.date(2025, 3, 9)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_an_export_says_the_date_that_it_was_measured_under(folder, tmp_path, place):
    settings = folder / "tokenizer_config.json"
    (folder / "chat_template.jinja").write_text(DATED)
    if settings.name == place:  # older folders have it there
        (folder / "chat_template.jinja").unlink()
        settings.write_text(
            json.dumps({**json.loads(settings.read_text()), "chat_template": DATED})
        )
    store = Store(root=tmp_path / "store")
    export(
        store,
        opened(folder, store, ModelTemplate(date=datetime.date(2025, 3, 9))),
        tmp_path / "out",
    )
    own = read_tokenizer(tmp_path / "out").chat_template
    assert own == DATED.replace("strftime_now('%d %B %Y')", "'09 March 2025'")


def test_system_text_begins_the_first_question_where_the_template_has_no_system_turns(
    chatml_tokenizer,
):
    gemma = with_template(chatml_tokenizer, "gemma")
    folding = with_template(gemma, ModelTemplate(system="into_user").text(gemma))
    chat = talk("Hi", "Hello.", "More", "Yes.", system="Be brief.")
    folded = talk("Be brief.\n\nHi", "Hello.", "More", "Yes.")
    assert render_text(folding, chat) == render_text(gemma, folded)
    assert render_text(folding, folded) == render_text(gemma, folded)


def test_trls_template_renders_the_thoughts_of_all_replies_alike(chatml_tokenizer):
    qwen3 = with_template(chatml_tokenizer, "qwen3")
    text = TrlTemplate().text(qwen3) or ""
    assert "generation" not in text.replace("add_generation_prompt", "").partition("-#}")[2]
    marked, own = with_template(qwen3, "qwen3_training"), with_template(qwen3, text)
    chat = talk("One", "First", "Two", "Second")
    assert render_text(own, chat) == render_text(marked, chat)
    found = encode_chat(own, chat)
    said = [own.decode(list(found.ids[start:end])) for start, end in found.spans]
    assert all(reply.startswith("<think>\n\n</think>") for reply in said)


def test_a_template_that_trl_does_not_know_is_refused(chatml_tokenizer):
    with pytest.raises(ModelError, match="TRL has no training version"):
        TrlTemplate().text(with_template(chatml_tokenizer, DATED))


def test_the_template_of_a_file_goes_into_every_stage_and_export(folder, tmp_path, finished):
    path = tmp_path / "other.jinja"
    path.write_text((folder / "chat_template.jinja").read_text().replace("helpful", "careful"))
    (folder / "chat_template.jinja").unlink()  # a base model without a template of its own
    store = Store(root=tmp_path / "store")
    template = FileTemplate(path=path)
    record = opened(folder, store, template)
    ref = ModelRef.model_validate(record.output)
    assert open_tokenizer(ref, store).chat_template == path.read_text()
    assert tokenizer_with(template, folder).chat_template == path.read_text()
    export(store, record, tmp_path / "out")
    assert read_tokenizer(tmp_path / "out").chat_template == path.read_text()
    trained = AdapterRef.model_validate(finished.records["sft"].output)
    adapter = trained.model_copy(update={"uri": f"folder:{finished.store.path(trained.uri)}"})
    deltas = plan_merge(ref.push(adapter))
    target = tmp_path / "merged"
    write_merge(deltas, store=store, dtype="float32", folder=target, progress=Progress())
    assert read_tokenizer(target).chat_template == path.read_text()


def test_a_missing_file_is_refused_before_any_work(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        FileTemplate(path=tmp_path / "none.jinja").digest()


def test_the_template_is_part_of_the_key_unless_it_is_the_models_own(tiny_settings, tmp_path):
    path = tmp_path / "a.jinja"
    path.write_text("{{ messages }}")

    def key(**settings):
        return chain(PipelineConfig.model_validate({**tiny_settings, **settings})).base.key

    own = key()
    assert key(template={"name": "model"}) == own
    others = [
        key(template={"name": "model", "date": "2025-01-01"}),
        key(template={"name": "model", "system": "into_user"}),
        key(template={"name": "trl"}),
        key(template={"name": "file", "path": str(path)}),
    ]
    path.write_text("{{ tools }}")
    others.append(key(template={"name": "file", "path": str(path)}))
    assert len({own, *others}) == 6
    with pytest.raises(ValidationError):
        key(template={"name": "qwen"})


def test_a_padding_token_that_the_model_cannot_embed_is_not_used(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.save_pretrained(folder)
    found = load_tokenizer(folder)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert tokenizer.pad_token_id >= rows > found.pad_token_id
    assert found.pad_token == found.eos_token


def test_a_template_whose_tokens_the_model_cannot_embed_is_refused(folder):
    tokenizer = copy.deepcopy(load_tokenizer(folder))
    tokenizer.add_tokens(["<|user|>"])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|user|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"writes '<\|user\|>', token 601, but .* only 601 tokens"):
        load_tokenizer(folder)


def test_a_template_file_may_lack_the_tokens_that_the_models_own_cannot_embed(folder, tmp_path):
    """The remedy that the refusal names."""
    tokenizer = copy.deepcopy(load_tokenizer(folder))
    usable = tokenizer.chat_template
    tokenizer.add_tokens(["<|user|>"])
    tokenizer.chat_template = "{{ '<|user|>' + messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    path = tmp_path / "a.jinja"
    path.write_text(usable)
    assert tokenizer_with(FileTemplate(path=path), folder).chat_template == usable


def test_trls_template_is_found_by_a_text_that_says_the_date(folder):
    """TRL knows gpt-oss's template as published, not with a date in the place of the call."""
    published = files("trl") / "chat_templates" / "gptoss.jinja"
    (folder / "chat_template.jinja").write_text(published.read_text())
    found = tokenizer_with(TrlTemplate(date=datetime.date(2025, 3, 9)), folder)
    assert "Current date: 2025-03-09" in render_text(found, ASK)


@pytest.mark.parametrize(
    "call", ["strftime_now(form)", "strftime_now(format='%d')", "strftime_now('%d' + '%m')"]
)
def test_a_date_that_cannot_be_fixed_is_refused(folder, tmp_path, call):
    (folder / "chat_template.jinja").write_text("{% set form = '%d' %}{{ " + call + " }}" + DATED)
    with pytest.raises(ModelError, match="says today's date"):
        load_tokenizer(folder)
    with pytest.raises(ModelError, match="says today's date"):
        opened(folder, Store(root=tmp_path / "store"))
    path = tmp_path / "a.jinja"
    path.write_text(DATED)
    assert "01 January 2026" in render_text(tokenizer_with(FileTemplate(path=path), folder), ASK)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"{# \xe9 #}", "is not UTF-8")],
)
def test_a_file_that_is_no_template_is_refused(tmp_path, folder, content, reason):
    path = tmp_path / "a.jinja"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        tokenizer_with(FileTemplate(path=path), folder)


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path, folder):
    path = tmp_path / "a.jinja"
    path.write_text("\ufeff" + DATED, encoding="utf-8")
    assert render_text(tokenizer_with(FileTemplate(path=path), folder), ASK).startswith(
        "<|im_start"
    )


def test_a_folder_as_template_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is no file"):
        FileTemplate(path=tmp_path).digest()


def test_of_several_templates_the_default_one_renders_every_row(folder):
    """transformers takes "tool_use" for rows with tools, and a merge carries only the default."""
    tokenizer = copy.deepcopy(load_tokenizer(folder))
    tokenizer.chat_template = {"default": DATED, "tool_use": "{{ tools }}"}
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    assert "01 January 2026" in render_text(load_tokenizer(folder), ASK)
    folding = tokenizer_with(ModelTemplate(system="into_user"), folder)
    assert "user\nBe brief.\n\nHi<" in render_text(folding, talk("Hi", "Yes.", system="Be brief."))


def test_system_text_is_not_folded_into_a_reply(folder):
    folding = tokenizer_with(ModelTemplate(system="into_user"), folder)
    begun_by_the_model = (*talk(system="Be brief."), *talk("", "Hello.", "Hi", "Yes.")[1:])
    assert "user\nBe brief." not in render_text(folding, begun_by_the_model)
