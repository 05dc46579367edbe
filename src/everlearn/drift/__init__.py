"""Detect drift in a stream of numbers.

Losses, predictions or inputs come in as numbers; a level after each number goes out (0 stable, 1 warning, 2 drift).
`detection` starts a detector, shows it values and reports its state. `kernels` calibrate it and run it on the stream.
`detectors` holds the published detectors.
The reaction to a drift lives in `loop/transitions.py`, and the choice of the watched number in `learn/`.
"""

from everlearn.drift.detection import CODES, divided, since, start, state, update

__all__ = ["CODES", "divided", "since", "start", "state", "update"]
