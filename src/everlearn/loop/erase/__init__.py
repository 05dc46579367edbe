"""Erase a person from a loop on request.

The home of a loop that is not open, and a selection of rows come in; tombstones in the log, rebuilt versions and a
decision that proves the erasure go out. `erasing` runs the steps, `finding` finds the events, `rebuilding` trains
models again without them, `replay_memory` removes rows from replay. The join and the learning that a rebuild repeats
live in `loop/rebuild.py`.
"""

from everlearn.loop.erase.erasing import erase

__all__ = ["erase"]
