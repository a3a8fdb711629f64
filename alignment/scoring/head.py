"""The LM head as the model's own code applies it: whatever follows the matmul included.

Families divide the logits (Granite), multiply them (Cohere, Falcon-H1) or cap them (Gemma-2 and 4).
Instead of a list of such rules, the model's own `forward` runs with its decoder replaced by hidden
states that are already known. So it can be applied to a few positions, a chunk at a time.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

Head = Callable[[Tensor], Tensor]
"""From hidden states [positions, hidden] to logits [positions, vocab]."""


def head_of(model: Any) -> Head:
    """The head of a causal model, with or without adapters."""
    inner = plain(model)
    known = _Known(inner.base_model, inner.get_decoder())
    stand_in = copy.copy(inner)  # shares every weight and submodule but the decoder
    stand_in._modules = {**inner._modules, inner.base_model_prefix: known}

    def head(states: Tensor) -> Tensor:
        known.states = states[None]
        # The class's own forward: trainer libraries replace the instance's.
        logits: Tensor = (
            type(inner).forward(stand_in, inputs_embeds=states[None], use_cache=False).logits
        )
        return logits[0]

    return head


def head_obstacle(blank: Any) -> str | None:
    """Why a model's head cannot be applied to known hidden states; None if it can.

    Args:
        blank: the model without weights.
    """
    decoder, head = blank.get_decoder(), blank.get_output_embeddings()
    if decoder is blank or not isinstance(decoder, PreTrainedModel):
        return "transformers does not say which part of it is its decoder"
    ran: list[Any] = []
    hooks = [part.register_forward_pre_hook(lambda *_: ran.append(1)) for part in decoder.modules()]
    try:
        logits = head_of(blank)(torch.empty(3, head.weight.shape[1], device="meta"))
    except Exception as error:  # any family may fail in its own way, and none may stop the doctor
        return f"its head cannot be applied to known states ({type(error).__name__}: {error})"
    finally:
        for hook in hooks:
            hook.remove()
    if ran or logits.shape != (3, head.weight.shape[0]):
        return "its head cannot be applied without its decoder"
    return None


def matmul_of(model: Any) -> Head:
    """The head's matmul alone, which was all that was scored with before `head_of`."""
    matmul: Head = plain(model).get_output_embeddings()
    return matmul


def plain(model: Any) -> Any:
    """The transformers model inside PEFT's wrapper, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class _Known:
    """Stands in for a decoder whose hidden states are known; has all its other attributes.

    Args:
        base: the part of the model that holds the decoder; mostly the decoder itself.
        decoder: the part that returns the hidden states.
    """

    def __init__(self, base: Any, decoder: Any) -> None:
        self._base = base
        self._decoder = decoder
        self.states: Any = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._base, name)
        return self if found is self._decoder else found  # some call `self.model.decoder`

    def __call__(self, *_: Any, **__: Any) -> "_Output":
        return _Output(last_hidden_state=self.states)


class _Output(BaseModelOutputWithPast):
    """Has None for what only some families return, such as router logits."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return None
