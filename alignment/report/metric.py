"""How metric values are written in tables, plots and sentences.

The evaluator of a metric defines its label and digits. Numbers follow the convention of
statistics: fixed digits and no leading zero, as in .429. The minus is a real minus sign, and a
missing value is a dash.
"""

import math

from alignment.evaluate.evaluators import evaluator_of
from alignment.records.evaluation import Estimate

MISSING = "—"
MINUS = "\N{MINUS SIGN}"


def show(number: float, *, digits: int = 3) -> str:
    """A number with fixed decimals: '.429', '1.205', and with one decimal '0.5'."""
    if not math.isfinite(number):
        return MISSING
    text = f"{abs(number):.{digits}f}"
    sign = MINUS if number < 0 and float(text) else ""
    return sign + (text.removeprefix("0") if digits > 1 else text)


def signed(number: float, *, digits: int = 3) -> str:
    """A difference with its sign: '+.120', or '.000' without one."""
    text = show(number, digits=digits)
    return f"+{text}" if number > 0 and float(f"{number:.{digits}f}") else text


def show_value(name: str, number: float) -> str:
    """A value of the metric `name`, with that metric's digits."""
    return show(number, digits=evaluator_of(name).digits)


def show_any(number: float) -> str:
    """A number of unknown kind: '48,211', '0.713', '2e-05'."""
    if number == round(number) or abs(number) >= 10_000:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def show_interval(name: str, estimate: Estimate) -> str:
    """'[.368, .492]', or an empty text for a single row, which has no interval."""
    if estimate.n == 1:
        return ""
    return f"[{show_value(name, estimate.low)}, {show_value(name, estimate.high)}]"


def show_p(p_value: float) -> str:
    """'p = .012', 'p < .001'."""
    return "p < .001" if p_value < 0.001 else f"p = {show(p_value)}"


def show_seconds(seconds: float) -> str:
    """'4.2 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
