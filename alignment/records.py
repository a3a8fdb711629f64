"""The records that stages pass to each other: results, as frozen JSON.

Settings are in the config class beside each function. Nothing here opens a file, imports a
training library or knows where the store is: every `uri` is `store:<key>/<path>`, `hub:<id>` or
`folder:<path>`, and `Store.path` resolves it to a path on disk.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

Role = Literal["system", "user", "assistant", "tool"]
Json = dict[str, object]


class Frozen(BaseModel):
    """Base class of configs and records: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Output = TypeVar("Output", bound=Frozen)
"""The type of record that a stage produces."""


def digest_of(value: object) -> str:
    """The sha256 (64 hex digits) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def inside(path: str) -> str:
    """The path unchanged, after checking that it stays inside the folder it will be joined to.

    Raises:
        ValueError: it is absolute, or contains `..`.
    """
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"{path!r} leads outside the folder that it belongs to")
    return path


# --- text -------------------------------------------------------------------------------------


class Function(Frozen):
    """The name of a function and the arguments of a call."""

    name: str
    arguments: dict[str, JsonValue]


class ToolCall(Frozen):
    """A tool call, in the form that chat templates expect."""

    type: Literal["function"] = "function"
    id: str = ""
    function: Function

    @model_serializer(mode="wrap")
    def _without_empty_id(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        dumped: dict[str, object] = serialise(self)
        return dumped if self.id else {k: value for k, value in dumped.items() if k != "id"}


class Message(Frozen):
    """One turn of a chat. All fields but the first two are left out of the JSON when empty.

    Attributes:
        tool_calls: calls made by an assistant turn, after its text or instead of it.
        tools: on the opening system turn, the functions that may be called (JSON schemas); such a
            turn may have no text.
        reasoning_content: what an assistant turn thought before its text.
        name: of the speaker; on a tool's turn, of the function that answers.
        tool_call_id: on a tool's turn, the `id` of the call that it answers.
        untrained: an assistant turn that its source marks as context: SFT does not imitate it.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[dict[str, JsonValue], ...] = ()
    reasoning_content: str = ""
    name: str = ""
    tool_call_id: str = ""
    untrained: bool = False

    @property
    def text(self) -> str:
        """What a chat template renders of its own: reasoning, content, tool calls and tools."""
        if not self.tool_calls and not self.tools and not self.reasoning_content:
            return self.content
        extra = [call.function.model_dump() for call in self.tool_calls] + list(self.tools)
        lines = [self.reasoning_content] * bool(self.reasoning_content) + [self.content]
        return "\n".join([*lines, *(json.dumps(e, ensure_ascii=False) for e in extra)])

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        dumped: dict[str, object] = serialise(self)
        return {name: value for name, value in dumped.items() if value or name in _ALWAYS_WRITTEN}


_ALWAYS_WRITTEN = ("role", "content")


class Conversation(Frozen):
    """A chat to imitate in SFT. `id` is a hash of its messages (`Conversation.of`)."""

    id: str
    messages: tuple[Message, ...]
    task_type: str
    source: str

    @classmethod
    def of(cls, messages: tuple[Message, ...], *, task_type: str, source: str) -> "Conversation":
        """Build a conversation; its id is a hash of its content."""
        content = [(message.role, message.text) for message in messages]
        return cls(
            id=digest_of(content)[:16], messages=messages, task_type=task_type, source=source
        )


class PreferencePair(Frozen):
    """Two replies to one prompt, one preferred. `id` is a hash of the three texts.

    Attributes:
        prompt: the turns before the replies, ending with a user turn.
        chosen: the preferred reply, usually one assistant message.
        rejected: the other reply.
        strength: how strongly `chosen` is preferred, 0..1; None if the source does not say.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    task_type: str
    source: str
    strength: float | None = None

    @classmethod
    def of(
        cls,
        prompt: tuple[Message, ...],
        *,
        chosen: tuple[Message, ...],
        rejected: tuple[Message, ...],
        task_type: str,
        source: str,
        strength: float | None = None,
    ) -> "PreferencePair":
        """Build a pair; its id is a hash of its content."""
        parts = [[(m.role, m.text) for m in part] for part in (prompt, chosen, rejected)]
        return cls(
            id=digest_of(parts)[:16],
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            task_type=task_type,
            source=source,
            strength=strength,
        )


class Prompt(Frozen):
    """A prompt without a reply: user turns, perhaps after a system turn."""

    id: str
    prompt: tuple[Message, ...]
    task_type: str
    source: str

    @classmethod
    def of(cls, prompt: tuple[Message, ...], *, task_type: str, source: str) -> "Prompt":
        """Build a prompt; its id is a hash of its content."""
        content = [(message.role, message.text) for message in prompt]
        return cls(id=digest_of(content)[:16], prompt=prompt, task_type=task_type, source=source)


class Quarantined(Frozen):
    """A row that is not used: where it came from, and why it was dropped.

    Attributes:
        file: the source as named in the config (a path, a hub id, "practice").
        row: 1-based line in a JSONL file, 1-based row elsewhere.
        reason: one of `alignment.data.row.Reason`.
        detail: a short description of what was found.
        id: id of the record, if the row could be read.
    """

    file: str
    row: int
    reason: str
    detail: str = ""
    id: str | None = None

    @field_validator("file", "detail")
    @classmethod
    def _encodable(cls, text: str) -> str:
        """Escape what UTF-8 cannot encode: a broken row may contain lone surrogates."""
        return text.encode("utf-8", "backslashreplace").decode()


# --- references to artifacts ------------------------------------------------------------------


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


# --- what a stage writes ------------------------------------------------------------------------


class BatchFile(Frozen):
    """A batch copied from an inbox into an artifact: the name of its only file."""

    file: str


class CodeVersion(Frozen):
    """The code that ran: the commit, and the sha256 of the diff if the tree was dirty."""

    revision: str
    diff_sha256: str | None = None


class Attempt(Frozen):
    """A process that worked on a stage and did not finish it.

    Attributes:
        seconds: from its start to its last sign of progress.
    """

    started: str
    seconds: float
    libraries: dict[str, str]


MANIFEST_FORMAT = 3
"""Version of `StageRecord` on disk; 1 had no `format` and no `earlier`, 2 no `ledgers`."""


class LedgerTip(Frozen):
    """The last entry of a ledger: its number, and the sha256 of its file."""

    number: int
    sha256: str


class StageRecord(Frozen):
    """`manifest.json`: the complete record of one stage, written last.

    Attributes:
        format: `MANIFEST_FORMAT` of the version that wrote it.
        name: the readable name of the step ("dpo-2").
        parents: key by role, e.g. {"policy": "merge-…", "pairs": "pairs-…"}.
        output: the input of the next stage as JSON: a `ModelRef`, `DataRef`, ...
        metrics: headline numbers.
        notes: sentences for the reader ("no SFT adapter: the base model takes its place").
        seconds: wall time of the process that finished it.
        earlier: the processes that had worked on it before, oldest first.
        ledgers: the last entry of every line of the store when it was finished, by line. A ledger
            that loses its end does not show it by itself.
    """

    format: int = 1
    key: str
    stage: str
    version: int
    name: str
    parents: dict[str, str]
    config: Json
    seed: int
    output: Json
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()
    files: tuple[FileDigest, ...]
    code: CodeVersion
    libraries: dict[str, str]
    hardware: dict[str, str]
    started: str
    seconds: float
    earlier: tuple[Attempt, ...] = ()
    ledgers: dict[str, LedgerTip] = Field(default_factory=dict)

    def output_as(self, kind: type[Output]) -> Output | None:
        """The output as a `ModelRef`, `DataRef`, `EvalReport`...; None if it is of another type."""
        try:
            return kind.model_validate(self.output)
        except ValidationError:
            return None

    def parents_as(self, role: str) -> tuple[str, ...]:
        """Keys of the parents in a role, in order: "data" matches "data" and "data 1", "data 2"."""
        return tuple(key for name, key in self.parents.items() if name.split()[0] == role)


# --- evaluation -----------------------------------------------------------------------------


class Estimate(Frozen):
    """A mean over `n` rows with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class ReliabilityBin(Frozen):
    """Pairs of similar confidence: their mean confidence, and the share that is right."""

    confidence: float
    right: Estimate


class EvalReport(Frozen):
    """The evaluation of one model on the held-out rows.

    `overall`, `by_task_type` and `by_source` map metric names to estimates. The names come from the
    evaluators (`alignment/evaluate/evaluators/`) of the version that wrote the report.

    Attributes:
        model: its label in tables: "base", "sft", "round 1", "control".
        tasks: uri of the rows of suites and of lm-eval (`TaskScore`), if any are configured.
        reliability: how often the model is right at each of its confidences, lowest first.
        noise: how far each metric of the base model moved when it was measured again.
        generations, pairs: uris of the underlying rows (`Generation`, `PairScore`).
    """

    model: str
    overall: dict[str, Estimate]
    by_task_type: dict[str, dict[str, Estimate]]
    by_source: dict[str, dict[str, Estimate]]
    generations: str
    pairs: str
    tasks: str | None = None
    reliability: tuple[ReliabilityBin, ...] = ()
    noise: dict[str, float] = Field(default_factory=dict)


class Generation(Frozen):
    """One greedy reply to a held-out prompt; `passed` is None if the prompt has no verifier.

    Attributes:
        prompt: text of the last turn.
        digest: digest of all turns, as in `PairScore.prompt`. Empty in evaluations of earlier
            versions.
    """

    id: str
    task_type: str
    source: str
    prompt: str
    reply: str
    tokens: int
    stopped: bool
    passed: bool | None = None
    unseen: bool | None = None
    digest: str = ""


class TaskScore(Frozen):
    """What one item of a suite or one document of an lm-eval task scored.

    Attributes:
        task_type: the part of the suite, or the task.
        source: "general", the stem of a file, or "lm-eval".
        prompt: digest of the prompt.
        metric: what the score is: "passed", or the name that lm-eval gives it.
        score: 1 for a reply that passes, 0 for one that does not; None if it cannot be judged.
        reply: the reply of a suite item.
    """

    id: str
    task_type: str
    source: str
    prompt: str
    metric: str
    score: float | None
    reply: str = ""


class PairScore(Frozen):
    """Summed log-probs (nats) of a held-out pair under the model and under the base model.

    Attributes:
        prompt: digest of the prompt; pairs that share it are not independent. Empty in evaluations
            of earlier versions.
        kl_from_base: KL to the base model in nats per token of the chosen reply, on probe pairs.
            None in evaluations of earlier versions.
    """

    id: str
    task_type: str
    source: str
    chosen: float
    rejected: float
    base_chosen: float
    base_rejected: float
    chosen_tokens: int
    rejected_tokens: int
    prompt: str = ""
    kl_from_base: float | None = None
