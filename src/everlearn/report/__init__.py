"""Show the results of a run: tables, pictures and a live status.

Plain data come in (metrics, curves, decisions, a status); tables, figures and text go out. `tables` prints metrics,
`pictures` draws curves, and `watch` keeps a status up to date on a screen. Metrics are computed in `metrics.py`, and
the status in `loop/status.py`; nothing here computes a metric or knows a model.
"""

from everlearn.report.pictures import FAINT, INK, OTHERS, Mark, marked, picture, spread, trend
from everlearn.report.tables import (
    LOWER_IS_BETTER,
    by_segment,
    counts,
    drawable,
    named,
    number,
    summary,
    table,
    written,
)
from everlearn.report.watch import SHOWN, Watch, shown

__all__ = [
    "FAINT",
    "INK",
    "LOWER_IS_BETTER",
    "OTHERS",
    "SHOWN",
    "Mark",
    "Watch",
    "by_segment",
    "counts",
    "drawable",
    "marked",
    "named",
    "number",
    "picture",
    "shown",
    "spread",
    "summary",
    "table",
    "trend",
    "written",
]
