"""Preflight: everything a CPU can find out about a run before a GPU is rented.

`examine` prepares the data as the run would and returns a `PreflightReport` with one `Finding` per
check: a verdict, the figures behind it, example rows, and what to do. `page.render` turns it into
a page. A check is a pure function from prepared rows and settings to a finding. To add one, write
it and list it in `examine.py`.
Not here: training anything, or loading weights.
"""
