"""Compare two models on paired losses, and decide which one serves.

Losses of a candidate and of a reference come in, one pair for each labelled row; evidence, verdicts and the actions
that follow from them go out. `losses` chooses the loss, `weights` bounds importance weights, `comparison` keeps the
evidence in fixed arrays, `kernels` holds its arithmetic, `deterioration` is the guard: it detects that the champion
became worse than the last good version. `power` predicts how many rows a verdict needs, `policy` turns verdicts into
actions. The models and their predictions live in `serve/`; the actions are carried out in `loop/transitions.py`.
"""

from everlearn.gate.comparison import evidence, start, update, update_guard, verdict

__all__ = ["evidence", "start", "update", "update_guard", "verdict"]
