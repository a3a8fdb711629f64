"""A figure as SVG in the style of the page around it.

Text stays text and uses the page's font. Colours become the page's variables, with the drawn colour
as fallback. The same figure gives the same bytes.
"""

import io
import re
import warnings

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from alignment.report.plots import canvas

_VARIABLES = {
    canvas.INK: "--ink",
    canvas.MUTED: "--muted",
    canvas.GRID: "--grid",
    canvas.PAPER: "--paper",
    canvas.BLUE: "--blue",
    canvas.VERMILION: "--vermilion",
    canvas.GREEN: "--green",
    canvas.PURPLE: "--purple",
}
_COLOUR = re.compile("|".join(_VARIABLES))
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def to_svg(figure: Figure, *, name: str) -> str:
    """The `<svg>` element. `name` (letters, digits, hyphens) makes its ids unique on the page."""
    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        # The reader's browser draws the text and has fonts that matplotlib lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        FigureCanvasSVG(figure)
        figure.savefig(drawn, format="svg", metadata=_NO_METADATA)
    return _themed(_with_own_ids(_element(drawn.getvalue()), name))


def _element(document: str) -> str:
    """The svg element of the document, without its fixed size: the page's style sets that."""
    element = document[document.index("<svg") :].strip()
    head, rest = element.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest


def _with_own_ids(element: str, name: str) -> str:
    element = re.sub(r'<g id="[^"]*">', "<g>", element)
    element = re.sub(r' id="', f' id="{name}-', element)
    return element.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')


def _themed(element: str) -> str:
    return _COLOUR.sub(lambda colour: f"var({_VARIABLES[colour[0]]}, {colour[0]})", element)
