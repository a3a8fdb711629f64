import math

import pytest
import torch

from alignment.evaluate.fidelity import PROBE_TOKENS, distance, hand_over, probe_rows
from alignment.models.merge import Merge
from alignment.progress import Progress
from alignment.records import Quantisation
from alignment.store import Store
from alignment.train.logprobs import Completion, encode, reply_distributions


def of_length(tokens):
    return Completion((1,), (2,) * tokens)


def test_a_probe_is_as_many_replies_as_have_512_tokens_together():
    """200 + 200 = 400 fit; 112 more make 512, which fit too; one more does not."""
    assert PROBE_TOKENS == 512
    rows = [of_length(200), of_length(200), of_length(112), of_length(1)]
    assert probe_rows(rows) == rows[:3]


def test_a_probe_has_at_least_one_reply():
    assert probe_rows([of_length(900), of_length(1)]) == [of_length(900)]
    assert probe_rows([]) == []


def test_a_model_is_at_no_distance_from_itself():
    same = [torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()]
    found = distance(same, same, [Completion((1,), (0, 1))])
    assert found == {"mean_abs_logprob": 0.0, "kl": 0.0, "top1": 1.0}


def test_the_distance_of_two_numbers():
    """Trained (1/2, 1/2), loaded (1/4, 3/4), one reply token, which is 0.

    |log 1/2 - log 1/4| = log 2. KL = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3).
    The loaded one puts 1 first; the trained one, at a tie, the first, 0: they disagree.
    """
    trained, loaded = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    found = distance([trained], [loaded], [Completion((1,), (0,))])
    assert found == pytest.approx(
        {"mean_abs_logprob": math.log(2), "kl": 0.5 * math.log(4 / 3), "top1": 0.0}
    )


@pytest.fixture
def handed_over(tmp_path, conversations):
    """A function that hands a trained model over: the reference that comes out."""

    def run(trained, **config):
        return hand_over(
            trained,
            Merge(**config),
            store=Store(root=tmp_path),
            probes=conversations,
            probe_dtype="float32",
            folder=tmp_path / "merged",
            uri=f"folder:{tmp_path / 'merged'}",
            progress=Progress(),
        )

    return run


def test_a_hand_over_in_fp32_loses_nothing(handed_over, tiny_ref, make_adapter):
    trained = tiny_ref.push(make_adapter("a", seed=1))
    made = handed_over(trained, dtype="float32")
    assert made.adapters == ()
    assert made.derived_from == trained.ref_hash
    assert made.materialised.deltas == trained.adapters
    assert made.materialised.kept_share == pytest.approx(1, abs=1e-4)
    assert made.materialised.probe["top1"] == 1
    assert made.materialised.probe["kl"] == pytest.approx(0, abs=1e-6)


def test_the_distance_in_the_record_is_that_of_the_two_models(
    handed_over, tiny_ref, make_adapter, open_tiny, conversations
):
    """In bfloat16, where there is one; computed again from the folder that was written."""
    trained = tiny_ref.push(make_adapter("a", seed=1))
    made = handed_over(trained, dtype="bfloat16")
    before, after = open_tiny(trained), open_tiny(made)
    rows = probe_rows(
        [
            encode(before.tokenizer, row.messages[:-1], row.messages[-1:], max_length=4096)
            for row in conversations
        ]
    )
    gaps = []
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.reply]])
        with torch.no_grad():
            first, second = (
                m.model(input_ids=ids).logits[0].log_softmax(-1) for m in (before, after)
            )
        for at, token in enumerate(row.reply, start=len(row.prompt)):
            gaps.append(abs(first[at - 1, token] - second[at - 1, token]).item())
    expected = sum(gaps) / len(gaps)
    assert expected > 1e-5
    assert made.materialised.probe["mean_abs_logprob"] == pytest.approx(expected, rel=1e-3)


def test_a_model_trained_in_four_bits_is_probed_as_it_was_trained(
    handed_over, tiny_ref, make_adapter
):
    """The distance then holds the noise of the four bits, which the next stage meets again."""
    quantised = tiny_ref.model_copy(update={"quantisation": Quantisation(compute_dtype="float32")})
    made = handed_over(quantised.push(make_adapter("a", seed=1)), dtype="float32")
    assert made.quantisation == quantised.quantisation
    assert made.materialised.kept_share == pytest.approx(1, abs=1e-4)
    assert made.materialised.probe["mean_abs_logprob"] > 1e-4


def test_distributions_and_the_probe_agree_on_their_rows(open_tiny):
    rows = [Completion((3, 4), (5, 6)), Completion((3,), (5,))]
    found = reply_distributions(open_tiny().model, rows, batch=2)
    assert [len(one) for one in found] == [2, 1]
