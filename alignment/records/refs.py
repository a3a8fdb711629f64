"""References to what a stage made: data, adapters, models."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from alignment.records.base import Frozen, digest_of, inside


class FileDigest(Frozen):
    """One file of an artifact: relative path, size in bytes, sha256."""

    path: Annotated[str, AfterValidator(inside)]
    size: int
    sha256: str


class DataRef(Frozen):
    """A prepared data set: JSONL files in an artifact.

    Attributes:
        train: uri of the rows to train on (`Conversation` or `PreferencePair`).
        held_out: uri of the rows that no stage trains on.
        prompts: uri of the held-out prompts with verifiers, if the source has any.
        kept, held, prompt_count: number of rows in these three files.
        quarantined: number of dropped rows by reason.
    """

    kind: Literal["conversations", "pairs"]
    train: str
    held_out: str
    prompts: str | None = None
    quarantine: str
    kept: int
    held: int
    prompt_count: int = 0
    quarantined: dict[str, int] = Field(default_factory=dict)


class RowsRef(Frozen):
    """A file of rows in an artifact: prompts, answers or labels of a round on own answers."""

    rows: str
    count: int


class BaseRef(Frozen):
    """A folder of full weights. `sha256` covers every weight file; `dtype` is the one on disk."""

    uri: str
    revision: str | None = None
    sha256: str
    dtype: str


class TokenizerRef(Frozen):
    """Where the tokenizer is, its digest, and the digest of its chat template.

    Attributes:
        date: the date (YYYY-MM-DD) that the chat template says; None if it says none.
    """

    uri: str
    sha256: str
    chat_template_sha256: str
    date: str | None = None


class AdapterRef(Frozen):
    """One LoRA adapter: y += (alpha / r) * B A x on each target module (Hu et al. 2021, eq. 3).

    Attributes:
        stage: name of the step that trained it: "sft", "dpo-1", ...
        trained_on: `ModelRef.ref_hash` of the model it was trained on.
    """

    uri: str
    sha256: str
    stage: str
    r: int
    alpha: float
    target_modules: tuple[str, ...]
    trained_on: str


class QuantisationKind(Frozen, ABC):
    """How the base weights are quantised while an adapter is trained on them.

    Every field is part of the keys of models that are loaded this way.
    """

    kind: str

    @property
    @abstractmethod
    def bits_per_weight(self) -> float:
        """Bits per weight of a quantised layer, including its share of the scales."""

    @abstractmethod
    def bitsandbytes_arguments(self) -> dict[str, Any]:
        """The settings under the argument names of `transformers.BitsAndBytesConfig`."""


class Nf4(QuantisationKind):
    """4-bit NormalFloat weights (Dettmers et al. 2023), as bitsandbytes names them."""

    kind: Literal["nf4"] = Field(default="nf4", description="4-bit data type of the weights.")
    double: bool = Field(
        default=True, description="Quantise the block scales as well (double quantisation)."
    )
    compute_dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="Dtype used for matrix multiplication."
    )

    @property
    def bits_per_weight(self) -> float:
        """Four bits, and a scale per block of 64 weights (Dettmers et al. 2023, section 3).

        Scales are fp32; with `double` they are 8-bit, with an fp32 scale per 256 of them.
        """
        return 4 + 8 / 64 + 32 / (64 * 256) if self.double else 4 + 32 / 64

    def bitsandbytes_arguments(self) -> dict[str, Any]:
        """The settings under the argument names of `transformers.BitsAndBytesConfig`."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.kind,
            "bnb_4bit_use_double_quant": self.double,
            "bnb_4bit_compute_dtype": self.compute_dtype,
        }


# A union with a single member. A discriminator would make `kind` mandatory in config files, which a
# single kind does not need. With a second: Annotated[Nf4 | Other, Field(discriminator="kind")].
Quantisation = Nf4


class Materialised(Frozen):
    """How a merged folder was made: weights = origin + sum of `deltas`, added in fp32.

    Attributes:
        dtype: dtype of the written weights.
        kept_share: projection of the written change onto the exact change; 1 = nothing lost.
        probe: log-probs of the trained model compared with the merged one on a probe set:
            `mean_abs_logprob`, `kl` (nats per token), `top1` (share of equal arg-max).
    """

    dtype: str
    method: Literal["fp32_sum"] = "fp32_sum"
    origin: BaseRef
    deltas: tuple[AdapterRef, ...]
    kept_share: float
    probe: dict[str, float]


class ModelRef(Frozen):
    """A model as a value: a base, perhaps quantised, and its adapters in order.

    Stages take and return these, so no stage needs to know whether the previous one merged its
    adapter or stacked it.

    Attributes:
        quantised: the base already quantised on disk. Loaded instead of the full weights when
            those are not needed; the result is the same.
        derived_from: `ref_hash` of the model that this one was merged from.
    """

    base: BaseRef
    tokenizer: TokenizerRef
    quantisation: Quantisation | None = None
    quantised: BaseRef | None = None
    adapters: tuple[AdapterRef, ...] = ()
    base_view: Literal["original", "nf4_dequantised"] = "original"
    derived_from: str | None = None
    materialised: Materialised | None = None

    @property
    def ref_hash(self) -> str:
        """Digest of what the model computes: content hashes only, so moving the store keeps it."""
        return digest_of(
            {
                "base": [self.base.sha256, self.base.dtype],
                "quantisation": self.quantisation and self.quantisation.model_dump(),
                "adapters": [adapter.sha256 for adapter in self.adapters],
                "base_view": self.base_view,
                "tokenizer": [
                    self.tokenizer.sha256,
                    self.tokenizer.chat_template_sha256,
                    *([self.tokenizer.date] if self.tokenizer.date else []),
                ],
            }
        )

    def push(self, adapter: AdapterRef) -> "ModelRef":
        """This model with one more adapter on top."""
        return self.model_copy(update={"adapters": (*self.adapters, adapter)})

    def reference(self) -> "ModelRef":
        """This model without its newest adapter: the reference model of a DPO round."""
        if not self.adapters:
            raise ValueError("a model without adapters has no reference")
        return self.model_copy(update={"adapters": self.adapters[:-1]})


class BatchFile(Frozen):
    """A batch copied from an inbox into an artifact: the name of its only file."""

    file: str
