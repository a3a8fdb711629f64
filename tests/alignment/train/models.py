"""Random models of a few thousand parameters, of several families."""


def random_model(family, **changes):
    """A causal model of two layers in fp32; four heads share two heads of keys."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4} if family == "gpt2" else _SIZES
    options = {"sliding_window": None} if family == "mistral" else {}
    config = AutoConfig.for_model(family, **{"vocab_size": 512, **sizes, **options, **changes})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
