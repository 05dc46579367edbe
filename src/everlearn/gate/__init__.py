"""Compare two models on paired losses, and decide which one serves.

Losses of a candidate and of a reference come in, one pair for each labelled row; evidence, verdicts and the actions
that follow from them go out. `comparison` keeps the evidence in fixed arrays, `kernels` holds its arithmetic, `power`
predicts how many rows a verdict needs, `policy` turns verdicts into actions. `deterioration` is the guard: it detects
that the champion became worse than the last good version. The models and their predictions live in
`serve/`; the actions are carried out in `loop/transitions.py`.
"""

from everlearn.gate.comparison import UNBOUNDED, evidence, start, update, update_guard, verdict

__all__ = ["UNBOUNDED", "evidence", "start", "update", "update_guard", "verdict"]
