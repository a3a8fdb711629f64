"""A probe: a model's log-probs of a few held-out replies, small enough to keep with its adapter.

The stage that trains a model saves one. Code that later loads, merges or exports the model scores
the same tokens and so measures how far the result is from the model that was trained.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.errors import TrainingError
from alignment.models.stack import freeze_trained
from alignment.records.refs import AdapterRef
from alignment.records.text import Conversation
from alignment.scoring.head import matmul_of
from alignment.scoring.logprobs import Completion, encode, reply_distributions
from alignment.store.durable import staged
from alignment.store.store import Store

PROBE_FILE = "probe.safetensors"
PROBE_LENGTH = 4096
"""Longest prompt and reply of a probe, in tokens."""
PROBE_TOKENS = 512
"""Reply tokens in a probe: few enough that full distributions fit in memory at any vocabulary."""
PROBE_CHOICES = 1024
"""Most likely tokens kept per position, 4 MB in total; all other tokens count as one."""
FREEZING_GAP = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest mean |difference| of a log-prob, in nats, that a changed order of summation explains."""


@dataclass(frozen=True)
class Probe:
    """Log-probs (nats, fp32) of one model at the reply positions of a few rows.

    Attributes:
        rows: prompts and replies as token ids.
        gold: [positions], log-probs of the replies' own tokens.
        choices: [positions, choices], ids of the most likely tokens, most likely first.
        scores: [positions, choices], log-probs of `choices`.
        by_matmul: whether it was taken with the head's matmul alone, without what some families
            do to the logits after it, as all probes once were.
    """

    rows: tuple[Completion, ...]
    gold: Tensor
    choices: Tensor
    scores: Tensor
    by_matmul: bool = False

    def save(self, path: Path) -> None:
        """Write the probe as one safetensors file."""
        tensors = {
            "tokens": torch.tensor([t for row in self.rows for t in (*row.prompt, *row.reply)]),
            "lengths": torch.tensor([(len(row.prompt), len(row.reply)) for row in self.rows]),
            "gold": self.gold,
            "choices": self.choices,
            "scores": self.scores,
            "own_head": torch.tensor(not self.by_matmul),
        }
        with staged("probe.save", path) as place:
            save_file(tensors, place)

    @classmethod
    def load(cls, path: Path) -> "Probe":
        """Read a probe from a file that `save` wrote."""
        tensors = load_file(path)
        tokens = iter(tensors["tokens"].tolist())
        rows = tuple(
            Completion(tuple(islice(tokens, prompt)), tuple(islice(tokens, reply)))
            for prompt, reply in tensors["lengths"].tolist()
        )
        by_matmul = not tensors.get("own_head", False)
        return cls(rows, tensors["gold"], tensors["choices"], tensors["scores"], by_matmul)


def probe_of(store: Store, adapter: AdapterRef) -> Probe:
    """The probe that training saved beside an adapter."""
    return Probe.load(store.path(adapter.uri).parent / PROBE_FILE)


def last_replies(
    tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Conversation]
) -> Iterator[Completion]:
    """The last reply of each conversation as token ids, with the preceding turns as prompt."""
    for row in conversations:
        yield encode(tokenizer, row.messages[:-1], row.messages[-1:], max_length=PROBE_LENGTH)


def probe_rows(rows: Iterable[Completion]) -> list[Completion]:
    """The first rows whose replies have at most `PROBE_TOKENS` in total; the first row is cut."""
    kept: list[Completion] = []
    tokens = 0
    for row in rows:
        tokens += len(row.reply)
        if kept and tokens > PROBE_TOKENS:
            break
        kept.append(Completion(row.prompt, row.reply[:PROBE_TOKENS]))
    return kept


def record_probe(model: PreTrainedModel, rows: Sequence[Completion]) -> Probe:
    """Take a probe of a model on these rows."""
    found = _distributions(model, rows)
    scores, choices = found.topk(min(PROBE_CHOICES, found.shape[1]))
    return Probe(tuple(rows), found.gather(1, _targets(rows))[:, 0].contiguous(), choices, scores)


def save_probe(
    model: PreTrainedModel, rows: Sequence[Completion], path: Path, *, bf16: bool
) -> float:
    """Write the probe of a model at the end of its training; afterwards it cannot train further.

    The trained adapter is first moved into the model's frozen branch, where every later load puts
    it. The frozen branch sums the same products in another order; the resulting change of the
    log-probs is measured, and a change beyond rounding is an error.

    Returns:
        Mean |difference| of a log-prob, in nats, between the model as trained and as frozen.

    Raises:
        TrainingError: the difference is more than rounding explains.
    """
    device = model.device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        live = record_probe(model, rows)
    freeze_trained(model)
    record_probe(model, rows).save(path)
    gap = divergence(live, model)["mean_abs_logprob"]
    allowed = FREEZING_GAP["bfloat16" if bf16 else "float32"]
    if not gap <= allowed:
        raise TrainingError(
            f"the trained adapter computes something else when frozen: log-probs change by "
            f"{gap:.3g} nats, but rounding explains only {allowed:g}. Please report this with the "
            "log."
        )
    return gap


def divergence(trained: Probe, model: PreTrainedModel) -> dict[str, float]:
    """How far a model is from the model that was probed, under the head that the probe had.

    Returns:
        `mean_abs_logprob`: mean |difference| of a reply token's log-prob, in nats;
        `kl`: mean KL(trained || model) per reply token, in nats, over the probe's choices plus all
            other tokens as one, which is a lower bound of the full KL;
        `top1`: share of reply positions at which the most likely token is the same.
    """
    found = _distributions(model, trained.rows, by_matmul=trained.by_matmul)
    gap = (trained.gold - found.gather(1, _targets(trained.rows))[:, 0]).abs()
    kl = _kl(trained.scores.double(), found.gather(1, trained.choices).double())
    same = found.gather(1, trained.choices[:, :1])[:, 0] == found.amax(
        1
    )  # both of a tie count as first
    return {
        "mean_abs_logprob": float(gap.mean()),
        "kl": float(kl.mean()),
        "top1": float(same.float().mean()),
    }


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL at each position in nats, [positions], from log-probs of choices, [positions, choices]."""
    p, q = first.exp(), second.exp()
    rest_p, rest_q = ((1 - part.sum(1)).clamp_min(1e-9) for part in (p, q))
    kl: Tensor = (p * (first - second)).sum(1) + rest_p * (rest_p / rest_q).log()
    return kl


def _distributions(
    model: PreTrainedModel, rows: Sequence[Completion], *, by_matmul: bool = False
) -> Tensor:
    head = matmul_of(model) if by_matmul else None
    return torch.cat(reply_distributions(model, rows, batch=8, head=head))


def _targets(rows: Sequence[Completion]) -> Tensor:
    return torch.tensor([token for row in rows for token in row.reply])[:, None]
