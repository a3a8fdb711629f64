"""Handovers of the tiny model: what is recorded, what warns and what stops the run."""

import pytest
import torch

from alignment.compose.handover import Destination, compose_model, kept_notes
from alignment.compose.settings import Merge, Stack
from alignment.errors import TrainingError
from alignment.records.refs import Nf4
from alignment.scoring.probe import last_replies, probe_rows, record_probe
from alignment.store.progress import Progress
from alignment.store.store import Store

NF4 = Nf4(compute_dtype="float32")


@pytest.fixture
def probe_of(open_tiny, conversations):
    """A function that takes the probe of a reference as its training would save it."""

    def take(ref):
        loaded = open_tiny(ref)
        return record_probe(loaded.model, probe_rows(last_replies(loaded.tokenizer, conversations)))

    return take


@pytest.fixture
def handed_over(tmp_path, probe_of):
    """A function that hands over a trained model, by default checked with its own probe."""

    def run(trained, config, *, probe=None, dtype="float32"):
        destination = Destination(
            store=Store(root=tmp_path),
            folder=tmp_path / "merged",
            uri=f"folder:{tmp_path / 'merged'}",
            dtype=dtype,
            progress=Progress(),
        )
        return compose_model(
            trained, config, probe=probe or probe_of(trained), destination=destination
        )

    return run


@pytest.fixture
def trained(tiny_ref, make_adapter):
    """The tiny model with an SFT adapter and a round's adapter, of ranks 4 and 2."""
    sft = make_adapter("sft", seed=1)
    return tiny_ref.push(sft).push(make_adapter("dpo-1", seed=2, r=2, alpha=6))


# --- merge ---------------------------------------------------------------------------------------


def test_a_merge_in_fp32_loses_nothing(handed_over, trained):
    made, metrics, notes = handed_over(trained, Merge(dtype="float32"))
    assert made.adapters == ()
    assert made.derived_from == trained.ref_hash
    assert made.materialised.deltas == trained.adapters
    assert metrics["kept_share"] == pytest.approx(1, abs=1e-4)
    assert metrics["top1"] == 1
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert notes == ()


def test_the_divergence_in_the_record_is_that_of_the_two_models(
    handed_over, trained, open_tiny, conversations
):
    """In bfloat16, where it is not zero; computed again from the folder written."""
    made, metrics, _ = handed_over(trained, Merge(dtype="bfloat16"))
    before, after = open_tiny(trained), open_tiny(made)
    gaps = []
    for row in probe_rows(last_replies(before.tokenizer, conversations)):
        ids = torch.tensor([[*row.prompt, *row.reply]])
        with torch.no_grad():
            first, second = (
                m.model(input_ids=ids).logits[0].log_softmax(-1) for m in (before, after)
            )
        for at, token in enumerate(row.reply, start=len(row.prompt)):
            gaps.append(abs(first[at - 1, token] - second[at - 1, token]).item())
    expected = sum(gaps) / len(gaps)
    assert expected > 1e-5
    assert metrics["mean_abs_logprob"] == pytest.approx(expected, rel=1e-3)
    assert made.materialised.probe == {k: metrics[k] for k in ("mean_abs_logprob", "kl", "top1")}


def test_a_model_trained_in_four_bits_is_loaded_in_four_bits_again(handed_over, trained):
    """The divergence then includes the quantisation noise that the next stage sees."""
    quantised = trained.model_copy(update={"quantisation": NF4})
    made, metrics, _ = handed_over(quantised, Merge(dtype="float32"))
    assert made.quantisation == NF4
    assert metrics["kept_share"] == pytest.approx(1, abs=1e-4)
    assert metrics["mean_abs_logprob"] > 1e-4


def test_a_merge_beyond_its_limit_stops_the_run_with_the_figures(handed_over, trained):
    """A model in four bits: the noise of quantising it again exceeds the limit."""
    quantised = trained.model_copy(update={"quantisation": NF4})
    with pytest.raises(TrainingError) as caught:
        handed_over(quantised, Merge(dtype="bfloat16", max_kl=1e-9))
    message = str(caught.value)
    assert message.startswith(
        "the merge of sft + dpo-1 differs from the model that was trained: mean"
    )
    assert "KL " in message
    assert "top-1 " in message
    assert "kept share " in message
    assert "largest KL allowed is 1e-09; set compose.name=stack, which loses nothing" in message


def test_a_merge_that_keeps_less_than_95_percent_says_what_to_do():
    assert kept_notes(0.95) == ()
    (note,) = kept_notes(0.42)
    assert "kept only 0.42" in note
    assert "compose.name=stack" in note
    assert "compose.dtype=float32" in note


# --- stack ---------------------------------------------------------------------------------------


def test_a_stack_is_handed_over_bit_for_bit_and_nothing_is_written(handed_over, trained, tmp_path):
    made, metrics, notes = handed_over(trained, Stack())
    assert made == trained
    assert metrics == {"mean_abs_logprob": 0.0, "kl": 0.0, "top1": 1.0}
    assert notes == ()
    assert not (tmp_path / "merged").exists()


def test_a_stack_in_four_bits_writes_its_base_once_and_loads_it_bit_for_bit(
    handed_over, trained, make_adapter, tmp_path
):
    """The probed model was quantised while loading; later loads read the quantised file."""
    quantised = trained.model_copy(update={"quantisation": NF4})
    made, metrics, _ = handed_over(quantised, Stack())
    assert metrics == {"mean_abs_logprob": 0.0, "kl": 0.0, "top1": 1.0}
    assert made.quantised.dtype == "nf4"
    assert made.ref_hash == quantised.ref_hash, "it computes the same"
    (file,) = (tmp_path / "merged").glob("*.safetensors")
    written = file.stat().st_mtime_ns
    longer = made.push(make_adapter("dpo-2", seed=3))
    after, metrics, _ = handed_over(longer, Stack())
    assert after == longer
    assert metrics["mean_abs_logprob"] == 0
    assert file.stat().st_mtime_ns == written


def test_a_new_base_is_quantised_from_its_own_weights(handed_over, trained):
    quantised = trained.model_copy(update={"quantisation": NF4})
    made = handed_over(quantised, Stack()).ref
    assert handed_over(made, Stack(max_rank=5)).ref.quantised is None


def test_a_stack_that_differs_from_what_was_trained_stops_the_run_with_the_figures(
    handed_over, trained, probe_of
):
    """The last training's probe against a stack without it, and with its adapters reordered."""
    with pytest.raises(TrainingError) as caught:
        handed_over(trained.reference(), Stack(), probe=probe_of(trained))
    assert "the stack of sft differs from the model that was trained: mean |d log-prob| " in str(
        caught.value
    )
    assert "allowed are 0 nats in float32" in str(caught.value)


def test_an_adapter_changed_in_one_weight_is_detected(handed_over, trained, probe_of, tmp_path):
    from safetensors.torch import load_file, save_file

    probe = probe_of(trained)
    path = tmp_path / "sft" / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(name for name in tensors if "lora_B" in name)
    tensors[key][0, 0] += 1e-3
    save_file(tensors, path)
    with pytest.raises(TrainingError, match="remove that stage's artifact and train it again"):
        handed_over(trained, Stack(), probe=probe)
    assert handed_over(trained, Stack(max_gap=1e-2), probe=probe).ref == trained


def test_a_stack_beyond_its_rank_becomes_a_new_base_and_the_record_says_so(handed_over, trained):
    """Ranks 4 and 2 add up to 6: allowed by a max_rank of 6, not by 5."""
    assert handed_over(trained, Stack(max_rank=6)).ref.adapters == trained.adapters
    made, metrics, notes = handed_over(trained, Stack(max_rank=5))
    assert made.adapters == ()
    assert made.materialised.deltas == trained.adapters
    assert made.materialised.dtype == "float32"
    assert metrics["kept_share"] == pytest.approx(1, abs=1e-4)
    assert notes == ("rank 6 exceeds compose.max_rank 5: a new base was written",)


def test_merged_and_stacked_models_agree_in_fp32(handed_over, trained, open_tiny):
    """They add the same deltas, up to rounding."""
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    merged = handed_over(trained, Merge(dtype="float32")).ref
    stacked = handed_over(trained, Stack()).ref
    with torch.no_grad():
        first, second = (open_tiny(ref).model(input_ids=ids).logits for ref in (merged, stacked))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
