"""Which model families the packed engine supports."""

from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types known to pass `segments` on to their attention; a test checks each of them."""


def packing_obstacle(config: Any) -> str | None:
    """Why the packed engine does not support a model with this config; None if it does."""
    if config.model_type not in FAMILIES:
        return f"{config.model_type!r} is not among the supported families: {', '.join(FAMILIES)}"
    if getattr(config, "sliding_window", None) is not None:
        return f"its attention uses a sliding window of {config.sliding_window} tokens"
    if config.attention_dropout:
        return f"it uses attention dropout ({config.attention_dropout:.0%})"
    return None
