"""Rotary embeddings whose frequencies depend on the longest row of a batch."""

from collections.abc import Iterator, Mapping
from typing import Any


def rope_limit(config: Any) -> int | None:
    """Row length in tokens up to which a model's frequencies are the same for every row.

    Longer rows switch (longrope) or stretch (dynamic) the frequencies of the whole batch, and
    transformers has no way to do so for one row. None if rows may have any length.
    """
    return min(_limits(config.get_text_config()), default=None)


def _limits(config: Any) -> Iterator[int]:
    for parameters in rope_parameters(config):
        if "dynamic" in parameters["rope_type"]:
            yield config.max_position_embeddings
        elif parameters["rope_type"] == "longrope":
            yield parameters["original_max_position_embeddings"]


def rope_parameters(config: Any) -> list[dict[str, Any]]:
    """The rope settings of a text model's config: one, or one for each type of layer."""
    found: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in found:
        return [dict(found)]
    return [part for part in found.values() if isinstance(part, dict) and "rope_type" in part]


def rope_obstacle(config: Any, length: int) -> str | None:
    """Why rows of up to so many tokens cannot be trained together; None if they can."""
    limit = rope_limit(config)
    if limit is None or length <= limit:
        return None
    return (
        f"beyond {limit:,} tokens the rotary frequencies of {config.model_type} depend on the "
        f"longest row of a batch, and max_length is {length:,}; set it to {limit} or less"
    )
