"""One training of another trainer, in that trainer's own environment; started by `peers.py`.

    python benchmarks/peer_trainer.py SETTINGS.json

Needs nothing of this project. Prints one JSON line: seconds, gradient norms and memory of the
counted steps. Rows come in file order, so who reads the line knows their tokens.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Train as the settings say, and print what it took."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    os.environ.update(settings["environment"])
    if settings["trainer"] == "unsloth":
        import_module("unsloth")  # patches the trainers, so it comes before them
    import torch

    if torch.cuda.is_available():
        share = settings["gpu_memory_gib"] * 2**30 / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    model, adapter = MODELS[settings["trainer"]](settings)
    trainer = TRAINERS[settings["phase"]](settings, model, adapter)
    times: dict[int, float] = {}
    trainer.add_callback(_clock(times))
    trainer.train()
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    first, last = settings["warm_up"], settings["warm_up"] + settings["steps"]
    print(
        json.dumps(
            {
                "seconds": times[last] - times[first],
                "gradient_norms": norms,
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30
                if torch.cuda.is_available()
                else None,
            }
        )
    )


def _trl_model(settings: dict[str, Any]) -> tuple[Any, Any]:
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    cuda = torch.cuda.is_available()
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        settings["model"],
        dtype=torch.bfloat16 if cuda else torch.float32,
        quantization_config=quantisation if cuda else None,
        device_map={"": 0} if cuda else None,
        attn_implementation="sdpa",
    )
    lora = LoraConfig(**_lora(settings), lora_dropout=0.05, task_type="CAUSAL_LM")
    return model, lora


def _unsloth_model(settings: dict[str, Any]) -> tuple[Any, Any]:
    import torch

    language_model = import_module("unsloth").FastLanguageModel
    model, _ = language_model.from_pretrained(
        settings["model"], max_seq_length=4096, load_in_4bit=True, dtype=torch.bfloat16
    )
    recompute = "unsloth" if settings["recompute"] else False
    adapted = language_model.get_peft_model(
        model,
        **_lora(settings),
        lora_dropout=0.0,  # its fused kernels have none
        use_gradient_checkpointing=recompute,
        random_state=0,
    )
    return adapted, None


def _lora(settings: dict[str, Any]) -> dict[str, Any]:
    rank = 64 if settings["phase"] == "sft" else 32
    return {"r": rank, "lora_alpha": 2 * rank, "target_modules": TARGETS}


def _sft(settings: dict[str, Any], model: Any, adapter: Any) -> Any:
    trl = import_module("trl")
    rows, tokenizer = _inputs(settings)
    arguments = trl.SFTConfig(**_arguments(settings), dataset_kwargs={"skip_prepare_dataset": True})
    return trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapter,
    )


def _dpo(settings: dict[str, Any], model: Any, adapter: Any) -> Any:
    if settings["trainer"] == "unsloth":
        import_module("unsloth").PatchDPOTrainer()
    trl = import_module("trl")

    rows, tokenizer = _inputs(settings)
    return trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(**_arguments(settings), beta=0.1),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapter,
    )


def _inputs(settings: dict[str, Any]) -> tuple[Any, Any]:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

    lines = Path(settings["rows"]).read_text().splitlines()
    rows = [json.loads(line)["row"] for line in lines]
    return Dataset.from_list(rows), PreTrainedTokenizerFast.from_pretrained(settings["model"])


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "output_dir": settings["scratch"],
        "per_device_train_batch_size": settings["per_device"],
        "gradient_accumulation_steps": settings["accumulation"],
        "max_steps": settings["warm_up"] + settings["steps"],
        "max_length": 4096,
        "bf16": cuda,
        "use_cpu": not cuda,
        "gradient_checkpointing": settings["recompute"],
        "optim": "adamw_torch_fused",
        "learning_rate": 2e-5,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
        **settings["arguments"],
    }


def _clock(times: dict[int, float]) -> Any:
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[state.global_step] = time.perf_counter()

    return Clock()


MODELS = {"trl": _trl_model, "unsloth": _unsloth_model}
TRAINERS = {"sft": _sft, "dpo": _dpo}

if __name__ == "__main__":
    main()
