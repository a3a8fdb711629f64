"""The figures of a model's pairs: margins by length, and how often confident ones are right."""

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from alignment.evaluate.metrics import reward_margin
from alignment.records.evaluation import PairScore, ReliabilityBin
from alignment.report.metric import MINUS, show
from alignment.report.plots.canvas import (
    BLUE,
    DASHED,
    MUTED,
    VERMILION,
    empty_figure,
    legend,
    thinned,
)


def margin_by_length(pairs: Sequence[PairScore]) -> Figure:
    """Margin of each pair against how much longer its chosen reply is.

    A slope means that the model partly learned a preference for length.
    """
    figure, axes = empty_figure(height=300)
    longer = [float(pair.chosen_tokens - pair.rejected_tokens) for pair in pairs]
    margins = [reward_margin(pair) for pair in pairs]
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axvline(0, color=MUTED, linewidth=1)
    for chosen_gained, colour, marker in ((True, BLUE, "o"), (False, VERMILION, "D")):
        points = [(x, y) for x, y in zip(longer, margins, strict=True) if (y > 0) == chosen_gained]
        xs, ys = zip(*thinned(points), strict=True) if points else ((), ())
        label = "chosen gained" if chosen_gained else "rejected gained"
        axes.plot(xs, ys, marker, color=colour, alpha=0.5, markersize=5, label=label)
    axes.set_xlabel(f"chosen {MINUS} rejected, tokens{_correlation(longer, margins)}")
    axes.set_ylabel("margin, nats")
    legend(axes)
    return figure


def reliability(bins: Sequence[ReliabilityBin]) -> Figure:
    """The share of pairs that is right at each confidence; on the dashed line, both are equal."""
    figure, axes = empty_figure(height=300)
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    shares = [one.right for one in bins]
    axes.errorbar(
        [one.confidence for one in bins],
        [share.value for share in shares],
        yerr=[
            [max(0.0, share.value - share.low) for share in shares],
            [max(0.0, share.high - share.value) for share in shares],
        ],
        fmt="o-",
        color=BLUE,
        markersize=6,
        elinewidth=1.6,
    )
    axes.set_xlabel("confidence in the preferred reply")
    axes.set_ylabel("share right")
    return figure


def _correlation(first: Sequence[float], second: Sequence[float]) -> str:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return ""
    return f"   (r = {show(statistics.correlation(first, second), digits=2)})"
