"""What crosses a boundary between two stages: what we *got*, as frozen JSON.

What we *ask for* is in the configs beside each function. Nothing here opens a file, imports a
training library or knows where the store lies: every `uri` is `store:<key>/<path>`,
`hub:<id>` or `folder:<path>`, and `Store.path` turns one into a place on disk.
"""

import hashlib
import json
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
    """Immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Output = TypeVar("Output", bound=Frozen)
"""A kind of record that a stage produces."""


def digest_of(value: object) -> str:
    """The sha256 (64 hex digits) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def inside(path: str) -> str:
    """The path, which cannot leave the folder that it is put below by its name.

    Raises:
        ValueError: it is absolute, or climbs with `..`.
    """
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"{path!r} leaves the folder that it belongs to")
    return path


# --- text -------------------------------------------------------------------------------------


class Function(Frozen):
    """A function by its name, with the arguments it is called with."""

    name: str
    arguments: dict[str, JsonValue]


class ToolCall(Frozen):
    """One call of a tool, in the form that chat templates read."""

    type: Literal["function"] = "function"
    function: Function


class Message(Frozen):
    """One turn of a chat.

    Attributes:
        tool_calls: what an assistant turn calls, after its text or in place of it.
        tools: on the opening system turn, the functions that may be called (JSON schemas). A
            system turn of tools alone has no text. Most messages have neither, and then neither
            is written.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[dict[str, JsonValue], ...] = ()

    @property
    def text(self) -> str:
        """Everything of it that a chat template makes text of."""
        if not self.tool_calls and not self.tools:
            return self.content
        beside = [call.function.model_dump() for call in self.tool_calls] + list(self.tools)
        return "\n".join([self.content, *(json.dumps(b, ensure_ascii=False) for b in beside)])

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        dumped: dict[str, object] = serialise(self)
        return {name: value for name, value in dumped.items() if value or name in _ALWAYS}


_ALWAYS = ("role", "content")


class Conversation(Frozen):
    """A chat to imitate. `id` is a hash of its messages (`Conversation.of`)."""

    id: str
    messages: tuple[Message, ...]
    task_type: str
    source: str

    @classmethod
    def of(cls, messages: tuple[Message, ...], *, task_type: str, source: str) -> "Conversation":
        """The conversation with its content hash as id."""
        content = [(message.role, message.text) for message in messages]
        return cls(
            id=digest_of(content)[:16], messages=messages, task_type=task_type, source=source
        )


class PreferencePair(Frozen):
    """Two replies to one prompt, one preferred. `id` is a hash of the three texts.

    Attributes:
        prompt: the turns before the replies, the last one of the user.
        chosen: the preferred reply, usually one assistant message.
        rejected: the other reply.
        strength: how strongly it is preferred, 0..1, or None where the source does not say.
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
        """The pair with its content hash as id."""
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
    """What a model is asked, without a reply: user turns, perhaps after a system turn."""

    id: str
    prompt: tuple[Message, ...]
    task_type: str
    source: str

    @classmethod
    def of(cls, prompt: tuple[Message, ...], *, task_type: str, source: str) -> "Prompt":
        """The prompt with its content hash as id."""
        content = [(message.role, message.text) for message in prompt]
        return cls(id=digest_of(content)[:16], prompt=prompt, task_type=task_type, source=source)


class Quarantined(Frozen):
    """A row that is not used: where it stood, and the one reason why.

    Attributes:
        file: the source as named in the config (a path, a hub id, "practice").
        row: 1-based line in a JSONL file, 1-based row elsewhere.
        reason: a named reason, see `alignment.data.row.Reason`.
        detail: what was found there, in words; short.
        id: of the record, where the row could be read.
    """

    file: str
    row: int
    reason: str
    detail: str = ""
    id: str | None = None

    @field_validator("file", "detail")
    @classmethod
    def _can_be_written(cls, text: str) -> str:
        """What was found in a broken row may be no text that a file can hold."""
        return text.encode("utf-8", "backslashreplace").decode()


# --- references to artifacts ------------------------------------------------------------------


class FileDigest(Frozen):
    """One file of an artifact: path within it, bytes, sha256."""

    path: Annotated[str, AfterValidator(inside)]
    size: int
    sha256: str


class DataRef(Frozen):
    """A prepared data set: JSONL files in an artifact.

    Attributes:
        train: uri of the rows to train on (`Conversation` or `PreferencePair`).
        held_out: uri of the rows that no stage trains on.
        prompts: uri of held-out prompts with verifiers, where the source has them.
        kept, held, prompt_count: rows in the three files.
        quarantined: rows not used, by reason.
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


class BaseRef(Frozen):
    """A folder of full weights. `sha256` covers every weight file; `dtype` is that on disk."""

    uri: str
    revision: str | None = None
    sha256: str
    dtype: str


class TokenizerRef(Frozen):
    """Where the tokenizer lies, its digest, and its chat template's own digest."""

    uri: str
    sha256: str
    chat_template_sha256: str


class AdapterRef(Frozen):
    """One LoRA adapter: y += (alpha / r) * B A x on each target module (Hu et al. 2021, eq. 3).

    Attributes:
        stage: the step that trained it: "sft", "dpo-1", ...
        trained_on: `ModelRef.ref_hash` of the model it was trained on.
    """

    uri: str
    sha256: str
    stage: str
    r: int
    alpha: float
    target_modules: tuple[str, ...]
    trained_on: str


class Quantisation(Frozen):
    """4-bit NormalFloat weights (Dettmers et al. 2023), in bitsandbytes' terms."""

    kind: Literal["nf4"] = Field(default="nf4", description="The 4-bit code.")
    double: bool = Field(default=True, description="Quantise the block scales as well.")
    compute_dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="Of the weights when they are multiplied."
    )

    def bitsandbytes_arguments(self) -> dict[str, Any]:
        """This quantisation under bitsandbytes' own argument names."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.kind,
            "bnb_4bit_use_double_quant": self.double,
            "bnb_4bit_compute_dtype": self.compute_dtype,
        }


class Materialised(Frozen):
    """How a merged folder came to be: weights = origin + sum of `deltas`, added in fp32.

    Attributes:
        dtype: of the weights written.
        kept_share: projection of the written change on the exact one; 1 = nothing lost.
        probe: log-probs of the model as trained against the merged one on a probe set:
            `mean_abs_logprob`, `kl` (nats per token), `top1` (share of equal arg-max).
    """

    dtype: str
    method: Literal["fp32_sum"] = "fp32_sum"
    origin: BaseRef
    deltas: tuple[AdapterRef, ...]
    kept_share: float
    probe: dict[str, float]


class ModelRef(Frozen):
    """A model as a value: a base, perhaps quantised, and the adapters on it in order.

    Stages take and return these, so whether a stage hands over a merged folder or carries
    adapters along is the reference's own business.

    Attributes:
        quantised: the base as `quantisation` makes it, already written: read instead of the full
            weights where those are not needed, with the same result.
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
                "tokenizer": [self.tokenizer.sha256, self.tokenizer.chat_template_sha256],
            }
        )

    def push(self, adapter: AdapterRef) -> "ModelRef":
        """This model with one more adapter on top."""
        return self.model_copy(update={"adapters": (*self.adapters, adapter)})

    def reference(self) -> "ModelRef":
        """This model without its newest adapter: what a DPO round compares with."""
        if not self.adapters:
            raise ValueError("a model without adapters has no reference")
        return self.model_copy(update={"adapters": self.adapters[:-1]})


# --- what a stage leaves behind -----------------------------------------------------------------


class BatchFile(Frozen):
    """A batch of an inbox, copied into an artifact: the name of the one file in it."""

    file: str


class CodeVersion(Frozen):
    """The code that ran: commit and, if the tree was dirty, the sha256 of its diff."""

    revision: str
    diff_sha256: str | None = None


class StageRecord(Frozen):
    """`manifest.json`: the whole record of one stage, written last.

    Attributes:
        name: how people call the step ("dpo-2").
        parents: role to key, e.g. {"policy": "merge-…", "pairs": "pairs-…"}.
        output: what the next stage takes, a `ModelRef`, `DataRef`, ... as JSON.
        metrics: headline numbers.
        notes: sentences a person should read ("no SFT adapter: the base model takes its place").
        seconds: wall time of the build that finished it.
    """

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

    def output_as(self, kind: type[Output]) -> Output | None:
        """What the stage produced, if it is of this kind: `ModelRef`, `DataRef`, `EvalReport`..."""
        try:
            return kind.model_validate(self.output)
        except ValidationError:
            return None

    def parents_as(self, role: str) -> tuple[str, ...]:
        """Keys of the parents in one role, in order: "data" finds "data", or "data 1", "data 2"."""
        return tuple(key for name, key in self.parents.items() if name.split()[0] == role)


# --- evaluation -----------------------------------------------------------------------------


class Estimate(Frozen):
    """A mean with its 95 % interval, and over how many rows."""

    value: float
    low: float
    high: float
    n: int


class EvalReport(Frozen):
    """One model of the chain on the held-out rows.

    `overall`, `by_task_type` and `by_source` map metric names to estimates. Metric names:
    `pass_rate`, `pass_rate_seen`, `pass_rate_unseen` (paraphrases), `preference_accuracy`
    (summed log-probs), `preference_accuracy_per_token`, `reward_accuracy` and `margin` (implicit
    reward against the base model, Rafailov et al. 2023 eq. 5, beta left out: nats), `nll` (nats
    per held-out reply token), `kl_from_base` (nats per token), `logprob_drift` (mean absolute
    change of a reply's log-prob against the parent model, nats), `reply_tokens`, `stop_rate`.

    Attributes:
        model: label in tables: "base", "sft", "round 1", "control".
        generations, pairs: uris of the rows behind the numbers (`Generation`, `PairScore`).
    """

    model: str
    overall: dict[str, Estimate]
    by_task_type: dict[str, dict[str, Estimate]]
    by_source: dict[str, dict[str, Estimate]]
    generations: str
    pairs: str


class Generation(Frozen):
    """One greedy reply to a held-out prompt; `passed` is None where nothing verifies it."""

    id: str
    task_type: str
    source: str
    prompt: str
    reply: str
    tokens: int
    stopped: bool
    passed: bool | None = None
    unseen: bool | None = None


class PairScore(Frozen):
    """Summed log-probs (nats) of one held-out pair under a model and under the base model."""

    id: str
    task_type: str
    source: str
    chosen: float
    rejected: float
    base_chosen: float
    base_rejected: float
    chosen_tokens: int
    rejected_tokens: int


# --- the gate ---------------------------------------------------------------------------------


class Check(Frozen):
    """One question of the gate: its name, whether the round passed, and the numbers in words."""

    name: str
    passed: bool
    words: str


class Verdict(Frozen):
    """What the gate says of a round: the candidate against the champion it started from."""

    candidate: str
    champion: str
    checks: tuple[Check, ...]

    @property
    def kept(self) -> bool:
        """Whether the next round starts from the candidate."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What decided: the checks that broke, or all of them where none did."""
        broken = tuple(check.words for check in self.checks if not check.passed)
        return broken or tuple(check.words for check in self.checks)

    @property
    def words(self) -> str:
        """'round 3 is rejected, round 2 stays: pass rate fell by ...'."""
        ending = "is kept" if self.kept else f"is rejected, {self.champion} stays"
        return f"{self.candidate} {ending}: {'; '.join(self.reasons)}"


class GateResult(Frozen):
    """What a gate leaves: the model that goes on, and how it was measured.

    Attributes:
        model: the candidate's or the champion's.
        evaluation: key of that model's evaluation.
    """

    model: ModelRef
    evaluation: str
    verdict: Verdict
