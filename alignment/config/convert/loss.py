"""Preference losses of other trainers that are the same as one of ours, and a refusal of others."""

from alignment.config.convert.theirs import Theirs, Values
from alignment.errors import UsageError

SAME = ("sigmoid", "ipo", "hinge", "sigmoid_norm", "apo_zero", "sppo_hard")
"""Losses of one parameter, beta, with TRL's names."""


def loss(
    theirs: Theirs, name: str, beta: float, *, gamma: float = 0.5, smooth: float = 0
) -> Values:
    """A loss with its parameters.

    Raises:
        UsageError: it is none of ours, and another one would train another model.
    """
    if name == "robust" and smooth:
        return {"loss": {"name": "robust", "beta": beta, "label_smoothing": smooth}}
    if smooth:
        raise UsageError(
            f"{theirs.tool}'s label smoothing {smooth:g} of the {name} loss cannot be converted: "
            "that loss has none here; `robust` has, and is another loss"
        )
    if name == "simpo":
        return {"loss": {"name": "simpo", "beta": beta, "gamma": gamma}}
    if name not in SAME:
        known = ", ".join((*SAME, "robust", "simpo"))
        raise UsageError(
            f"{theirs.tool}'s loss {name} cannot be converted: it is none of {known}, and another "
            "one would train another model"
        )
    return {"loss": {"name": name, "beta": beta}}
