"""A real chat model small enough to train in a second, and the settings of a whole run on it.

The golden trajectories depend on this file: changing the tokenizer's training text, a shape or the
seed changes them.
"""

from pathlib import Path

LICENSE = Path(__file__).parents[1] / "LICENSE"
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer():
    """A small tokenizer like SmolLM2's: byte-level BPE, ChatML, and pad is the stop token.

    `<tool_call>` is an added token that is not special, as in Qwen2.5.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    answers = "The answer is yes.\n\n\nThe answer is no.\n\n\n" * 50
    core.train_from_iterator((LICENSE.read_text(), answers), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=SMOLLM2_TEMPLATE,
    )
    fast.add_tokens([AddedToken("<tool_call>", special=False)])
    return fast


def write_model(folder, tokenizer):
    """Write a random Qwen2 with 38,000 parameters and its tokenizer with `save_pretrained`."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def settings(model, store):
    """The settings of a whole chain on a tiny model: two rounds and a control."""
    training = {
        "lora": {"r": 4, "alpha": 8, "dropout": 0.05},
        "learning_rate": 1e-2,
        "batch": {"per_device": 4, "accumulation": 1},
        "max_length": 256,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_every": 1,
        "samples": 1,
        "sample_tokens": 4,
    }
    return {
        "name": "tiny",
        "store": str(store),
        "model": {"name": "folder", "path": str(model)},
        "quantisation": None,
        "sft": {
            "name": "train",
            "data": {"sources": [{"name": "practice", "part": "sft", "rows": 24}]},
            "training": {**training, "epochs": 1},
        },
        "dpo": {**training, "max_prompt_length": 200},
        "rounds": [
            {"data": {"sources": [{"name": "practice", "part": f"round-{n}", "rows": 16}]}}
            for n in (1, 2)
        ],
        "gate": {"name": "plain"},
        "compose": {"name": "merge", "dtype": "float32"},
        "control": {},
        "evaluation": {
            "data": {
                "sources": [{"name": "practice", "part": "held-out", "rows": 24}],
                "min_rows": 0,
            },
            "dtype": "float32",
            "max_new_tokens": 8,
            "max_length": 256,
        },
    }
