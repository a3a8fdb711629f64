"""The share of what the stack gained that each arm hands over, as numbers and as a plot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.stage import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gain_kept(found: Sequence[Stage], arm: str, seed: int) -> dict[str, float]:
    """Stage to the gain that an arm hands over, as a share of what the stack gained there.

    The gain of SFT is in NLL, which it trains; that of a round is the margin since SFT.
    """
    stack = {s.stage: s.views["trained"] for s in found if (s.arm, s.seed) == ("stack", seed)}
    own = {s.stage: s.views["start"] for s in found if (s.arm, s.seed) == (arm, seed)}
    kept = {}
    for name in own.keys() & stack.keys():
        if name == "sft":
            kept[name] = own[name].nll_gain / stack[name].nll_gain
        else:
            before = stack["sft"].margin
            kept[name] = (own[name].margin - before) / (stack[name].margin - before)
    return dict(sorted(kept.items(), key=lambda item: list(stack).index(item[0])))


def figure(found: Sequence[Stage]) -> "Figure":
    """Share of the stack's gain that each arm hands over, against the stage; a line per seed."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 3.5), layout="constrained")
    axes = drawn.subplots()
    stages = list(dict.fromkeys(stage.stage for stage in found))
    for colour, arm in enumerate(dict.fromkeys(stage.arm for stage in found)):
        for seed in sorted({stage.seed for stage in found}):
            kept = gain_kept(found, arm, seed)
            axes.plot(
                [stages.index(name) for name in kept],
                list(kept.values()),
                color=f"C{colour}",
                marker="o",
                label=arm if seed == found[0].seed else None,
            )
    axes.set_xticks(range(len(stages)), stages)
    axes.set_ylabel("gain handed over / the stack's")
    axes.axhline(1, color="0.8", zorder=0)
    axes.legend(frameon=False)
    return drawn
