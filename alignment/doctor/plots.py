"""The charts of a preflight report as matplotlib figures, in the style of the run's report."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from alignment.doctor.finding import Bars, Chart, Finding, Histogram
from alignment.report.pictures import Picture
from alignment.report.plots.canvas import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    VERMILION,
    empty_figure,
    height_for,
    legend,
    name_rows,
)
from alignment.report.svg import to_svg
from alignment.report.table import printable

_COLOURS = (BLUE, VERMILION, GREEN)
_BAR_COLOURS = (BLUE, GREEN, MUTED)


def pictures(finding: Finding) -> Iterator[Picture]:
    """The charts of a finding as markup."""
    for number, chart in enumerate(finding.charts):
        figure = draw(chart)
        name = f"{finding.check.replace(' ', '-')}-{number}"
        width = round(figure.get_figwidth() * figure.dpi)
        yield Picture(caption=chart.title, svg=to_svg(figure, name=name), width=width)


def draw(chart: Chart) -> Figure:
    """The figure of a chart."""
    return _histogram(chart) if isinstance(chart, Histogram) else _bars(chart)


def _histogram(chart: Histogram) -> Figure:
    figure, axes = empty_figure(height=250)
    for (name, counts), colour in zip(chart.counts.items(), _COLOURS, strict=False):
        axes.stairs(counts, chart.edges, fill=True, color=colour, alpha=0.28)
        axes.stairs(counts, chart.edges, color=colour, linewidth=1.6, label=_text(name))
    top = max((max(counts) for counts in chart.counts.values()), default=1) * 1.12
    for number, (name, at) in enumerate(sorted(chart.marks.items(), key=lambda mark: mark[1])):
        axes.axvline(at, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
        right = at > (chart.edges[0] + chart.edges[-1]) / 2
        axes.annotate(
            f"{_text(name)} {at:,.0f}" if at else _text(name),
            (at, top * (0.99 - 0.09 * number)),
            xytext=(-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            fontsize=11,
            color=INK,
        )
    axes.set_ylim(0, top)
    axes.set_xlim(chart.edges[0], chart.edges[-1] * 1.01)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel(_text(chart.unit))
    axes.set_ylabel("rows")
    if len(chart.counts) > 1:
        legend(axes)
    return figure


def _bars(chart: Bars) -> Figure:
    figure, axes = empty_figure(height=height_for(len(chart.bars)))
    parts = list(dict.fromkeys(part for bar in chart.bars.values() for part in bar))
    left = [0.0] * len(chart.bars)
    for part, colour in zip(parts, _BAR_COLOURS, strict=False):
        widths = [bar.get(part, 0.0) for bar in chart.bars.values()]
        rows = range(len(widths))
        axes.barh(rows, widths, left=left, height=0.56, color=colour, alpha=0.8, label=_text(part))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    name_rows(axes, list(chart.bars))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel(_text(chart.unit))
    legend(axes)
    return figure


def _text(text: str) -> str:
    """The text, with `$` escaped so that matplotlib does not parse it as a formula."""
    return printable(text).replace("$", r"\$")
