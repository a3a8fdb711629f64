"""Which models the packed engine knows."""

from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types known to pass `segments` on to their attention; a test holds each to it."""


def against_packing(config: Any) -> str | None:
    """Why the attention of a model with this config is not known, in words; None where it is."""
    if config.model_type not in FAMILIES:
        return f"{config.model_type!r} is not among the families it knows, {', '.join(FAMILIES)}"
    if getattr(config, "sliding_window", None) is not None:
        return f"its attention slides over a window of {config.sliding_window} tokens"
    if config.attention_dropout:
        return f"it drops {config.attention_dropout:.0%} of its attention"
    return None
