"""How much of the rounds' gain each arm keeps at its handovers, as numbers and as a plot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.stage import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEN_AS = {
    "start": "as the next stage starts from it",
    "exported bf16": "as exported, bfloat16",
}
MARKERS = "os^Dv"


def gain_kept(found: Sequence[Stage], arm: str, seed: int, view: str) -> dict[str, float]:
    """For each stage, an arm's margin above the stack's margin after SFT, same view, in nats.

    The stack hands over SFT exactly as trained, so the arm's own SFT shows what its handover lost.
    In nats, not as a share of the stack's gain: rounds may gain less than a handover loses.
    """
    stages = {(one.arm, one.stage): one for one in found if one.seed == seed}
    trained = stages["stack", "sft"].views[view].margin
    own = sorted((one for one in stages.values() if one.arm == arm), key=lambda one: one.place)
    return {one.stage: one.views[view].margin - trained for one in own}


def figure(found: Sequence[Stage]) -> "Figure":
    """Gain kept at each stage, as handed over and as exported; one line per arm and seed."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 4), layout="constrained")
    panels = drawn.subplots(1, len(SEEN_AS), sharey=True)
    stages = [one.stage for one in sorted(found, key=lambda one: one.place)]
    stages = list(dict.fromkeys(stages))
    for axes, (view, title) in zip(panels, SEEN_AS.items(), strict=True):
        for colour, arm in enumerate(dict.fromkeys(one.arm for one in found)):
            for place, seed in enumerate(sorted({one.seed for one in found if one.arm == arm})):
                kept = gain_kept(found, arm, seed, view)
                axes.plot(
                    [stages.index(name) for name in kept],
                    list(kept.values()),
                    color=f"C{colour}",
                    marker=MARKERS[place % len(MARKERS)],
                    markersize=5,
                    label=f"{arm}, seed {seed}",
                )
        axes.set_title(title, fontsize="medium")
        axes.set_xticks(range(len(stages)), stages)
        axes.set_xlabel("after")
        axes.axhline(0, color="0.8", zorder=0)
    panels[0].set_ylabel("margin gained since SFT as trained, nats")
    panels[-1].legend(frameon=False, loc="lower right", ncols=2, fontsize="small")
    return drawn
