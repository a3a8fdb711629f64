"""The preflight: what can be known about a run on a CPU, before a GPU is rented.

`examine` prepares the data as the run would and returns a `Checkup`: one `Finding` for each check,
with a verdict, the figures behind it, rows to look at, and what to do. `page.render` makes a page
of it. A check is a pure function from prepared rows and settings to a finding; to add one, write
it and name it in `examine.py`.
Not here: training anything, or loading weights.
"""

from alignment.doctor.examine import examine
from alignment.doctor.finding import Checkup, Finding

__all__ = ["Checkup", "Finding", "examine"]
