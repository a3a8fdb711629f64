"""A `ModelRef` becomes a model in memory.

Not here: creating adapters for training (TRL does, from a `peft_config`), merging (`merge.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import ModelError
from alignment.records import AdapterRef, BaseRef, ModelRef, Quantisation
from alignment.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, its tokenizer, and the reference both came from."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    ref: ModelRef


def open_model(ref: ModelRef, store: Store, *, dtype: str, quantised: bool = True) -> LoadedModel:
    """Load a reference: its base, quantised as it says, with its adapters on top.

    Args:
        ref: what to load.
        store: resolves `store:` uris.
        dtype: of the unquantised weights in memory: float32, bfloat16, float16.
        quantised: False loads full weights although the reference is quantised, as for merging.

    Raises:
        ModelError: weights or an adapter cannot be opened.
    """
    quantisation = ref.quantisation if quantised else None
    model = load_base(base_folder(ref.base, store), dtype=dtype, quantisation=quantisation)
    for adapter in ref.adapters:
        model = load_adapter(model, store.path(adapter.uri))
    return LoadedModel(model=model.eval(), tokenizer=open_tokenizer(ref, store), ref=ref)


def open_tokenizer(ref: ModelRef, store: Store) -> "PreTrainedTokenizerBase":
    """The tokenizer of a reference; right padding, as training wants it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        base_folder(ref.base, store), padding_side="right", trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def base_folder(base: BaseRef, store: Store) -> Path:
    """The folder of a base model on this machine; a hub model must be in the hub's cache."""
    if not base.uri.startswith("hub:"):
        return store.path(base.uri)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base.uri[4:], revision=base.revision, local_files_only=True))


def load_base(
    folder: Path, *, dtype: str, quantisation: Quantisation | None = None
) -> "PreTrainedModel":
    """Full or 4-bit weights of a folder, on the GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    from alignment.models.sources import check_weights

    check_weights(folder)
    extra: dict[str, Any] = {}
    if quantisation is not None:
        extra["quantization_config"] = bits_and_bytes(quantisation)
    if torch.cuda.is_available():
        extra["device_map"] = {"": torch.cuda.current_device()}
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        trust_remote_code=False,
        **extra,
    )
    _keep_nf4_trainable_on_cpu(model)
    return model


def bits_and_bytes(quantisation: Quantisation) -> Any:
    """The `BitsAndBytesConfig` of a quantisation."""
    import torch
    from transformers import BitsAndBytesConfig

    arguments = quantisation_arguments(quantisation)
    arguments["bnb_4bit_compute_dtype"] = getattr(torch, quantisation.compute_dtype)
    return BitsAndBytesConfig(**arguments)


def quantisation_arguments(quantisation: Quantisation) -> dict[str, Any]:
    """A quantisation under bitsandbytes' own argument names."""
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quantisation.kind,
        "bnb_4bit_use_double_quant": quantisation.double,
        "bnb_4bit_compute_dtype": quantisation.compute_dtype,
    }


def load_adapter(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """A model with the LoRA adapter of a folder on it, for inference.

    PEFT only warns when weights are missing from the file; here that is an error.

    Raises:
        ModelError: the folder has no adapter, or not all of it.
    """
    from peft import PeftModel
    from safetensors import safe_open

    check_adapter(folder)
    loaded: Any = PeftModel.from_pretrained(model, folder)
    with safe_open(folder / ADAPTER_WEIGHTS, framework="numpy") as tensors:
        stored = len(tensors.keys())
    expected = sum("lora_" in name for name, _ in loaded.named_parameters())
    if stored != expected:
        raise ModelError(
            f"{folder} holds {stored} LoRA tensors, the model takes {expected}: "
            "the adapter belongs to another model or is incomplete."
        )
    adapted: PreTrainedModel = loaded
    return adapted


def check_adapter(folder: Path) -> None:
    """Refuse an adapter folder that is incomplete or damaged.

    Raises:
        ModelError: saying which file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(
                f"the adapter folder {folder} has no {name}. Point to a folder written by "
                "save_pretrained, with safetensors weights."
            )
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ModelError(
            f"{folder / ADAPTER_WEIGHTS} is damaged ({' '.join(str(error).split())[:120]}). "
            "A damaged adapter is never replaced by the base model: fetch or train it again."
        ) from error


def describe_adapter(folder: Path, *, uri: str, stage: str, trained_on: str) -> AdapterRef:
    """The reference to an adapter folder.

    Raises:
        ModelError: the adapter is damaged, or of a kind whose delta is not (alpha / r) * B A.
    """
    import json

    from alignment.store import file_sha256

    check_adapter(folder)
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    for option in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(option):
            raise ModelError(
                f"{folder} uses {option}, which this pipeline cannot merge exactly. "
                "Use a plain LoRA adapter."
            )
    return AdapterRef(
        uri=uri,
        sha256=file_sha256(folder / ADAPTER_WEIGHTS),
        stage=stage,
        r=config["r"],
        alpha=config["lora_alpha"],
        target_modules=tuple(sorted(config["target_modules"])),
        trained_on=trained_on,
    )


def _keep_nf4_trainable_on_cpu(model: "PreTrainedModel") -> None:
    # bitsandbytes packs a CPU Linear4bit for inference at its first no-grad forward and never
    # unpacks it: later gradients are silently None. Switching the packing off keeps it exact.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (typed as a tensor)
