"""What every kind of quantisation must do, and that a new one needs nothing but its class.

`Fp4` is known to these tests only; a kind that is added to `records/refs.py` is tested with it.
"""

from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field, create_model
from safetensors.torch import load_file

from alignment.config import file
from alignment.config.pipeline import PipelineConfig
from alignment.errors import ConfigError
from alignment.models.load import load_base
from alignment.records.refs import ModelRef, Nf4, QuantisationKind


class Fp4(QuantisationKind):
    """4-bit floats with a scale for each block of 64, as bitsandbytes has them."""

    kind: Literal["fp4"] = "fp4"

    @property
    def bits_per_weight(self) -> float:
        """Four, and an fp32 scale for each 64."""
        return 4 + 32 / 64

    def bitsandbytes_arguments(self) -> dict[str, Any]:
        """Computes in fp32, the default of bitsandbytes."""
        return {"load_in_4bit": True, "bnb_4bit_quant_type": self.kind}


KINDS = QuantisationKind.__subclasses__()


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """A folder with one layer wide enough for scales to weigh as much as in a large model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    config = Qwen2Config(
        vocab_size=16,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_takes_the_bits_that_the_forecast_counts(kind, wide_model, tmp_path):
    """Of the file it is saved in: weights and scales of the linear layers."""
    load_base(wide_model, dtype="float32", quantisation=kind()).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    held = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in stored.items()
        if "_proj.weight" in name
    )
    weights = 4 * 512 * 512 + 3 * 512 * 1024
    assert 8 * held / weights == pytest.approx(kind().bits_per_weight, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_is_close_to_the_full_one_and_trainable_on_a_cpu(
    kind, open_tiny, tiny_ref
):
    """Also after an evaluation: bitsandbytes would pack a CPU layer for good."""
    settings = kind(compute_dtype="float32") if "compute_dtype" in kind.model_fields else kind()
    model = open_tiny(tiny_ref.model_copy(update={"quantisation": settings})).model
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        gap = (model(input_ids=ids).logits - open_tiny().model(input_ids=ids).logits).abs().max()
    assert 0 < gap < 0.2
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_bitsandbytes_knows_a_kind_by_its_arguments(kind):
    from transformers import BitsAndBytesConfig

    found = BitsAndBytesConfig(**kind().bitsandbytes_arguments())
    assert found.load_in_4bit or found.load_in_8bit
    assert found.to_dict().items() >= kind().bitsandbytes_arguments().items()


def test_nf4_is_stored_as_ever(tiny_ref):
    """Each field is in the keys of all models that are loaded so."""
    stored = Nf4().model_dump(mode="json")
    assert stored == {"kind": "nf4", "double": True, "compute_dtype": "bfloat16"}
    quantised = tiny_ref.model_copy(update={"quantisation": Nf4(double=False)})
    assert ModelRef.model_validate_json(quantised.model_dump_json()) == quantised


def test_nf4_without_double_quantisation_takes_half_a_bit_for_scales():
    assert Nf4(double=False).bits_per_weight == 4.5
    assert Nf4().bits_per_weight == pytest.approx(4.127, abs=0.001)


@pytest.fixture
def config_file(monkeypatch, tmp_path):
    """A config file with NF4, read while the new kind is in the union."""
    two = Annotated[Nf4 | Fp4, Field(discriminator="kind")]
    pipeline = create_model("TwoKinds", __base__=PipelineConfig, quantisation=(two | None, Nf4()))
    monkeypatch.setattr(file, "PipelineConfig", pipeline)
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {name: package}\nsft: {name: none}\nquantisation: {kind: nf4, double: false}\n"
    )
    return path


def test_a_new_kind_is_chosen_in_a_config_file_and_by_an_override(config_file):
    assert file.load(config_file).quantisation == Nf4(double=False)
    changed = file.load(config_file, ["quantisation.kind=fp4"])
    assert changed.model_dump()["quantisation"] == {"kind": "fp4"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quantisation.kind=fp5", "quantisation.kind: there is no 'fp5'; did you mean 'fp4'?"),
        ("quantisation={double: true}", "quantisation needs a `kind` that selects its kind"),
        ("quantisation={kind: fp4, double: true}", "unknown key quantisation.double; valid names"),
    ],
)
def test_mistakes_in_a_kind_are_explained(config_file, override, message):
    with pytest.raises(ConfigError) as caught:
        file.load(config_file, [override])
    assert message in str(caught.value)
