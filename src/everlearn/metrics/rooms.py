"""Which rooms of metrics a record has, after the settings of a loop have changed."""

from __future__ import annotations

from everlearn.metrics import alerts, segments
from everlearn.metrics.recent import GROUP, SEGMENT
from everlearn.records import Arrays


def renew(arrays: Arrays, share: float, segmented: bool, restarted: bool) -> None:
    """Let the rooms whose settings are others than those of the arrays start again, in place.

    Alerts begin again at another `share`. Segments go if rows are not `segmented` any more, and begin again if they are
    `restarted`. A record without recent rows (of release 0.1.0) has neither room, and gets none.
    """
    if "alert_sums" in arrays and alerts.share(arrays) != share:
        arrays |= alerts.start(share)
    if "recent" not in arrays:
        return
    if restarted or not segmented:
        arrays.pop("segments", None)
    if segmented and "segments" not in arrays:
        arrays |= segments.start()
        held = arrays["recent_bits"][SEGMENT] if "recent_bits" in arrays else arrays["recent"][GROUP]
        held[:] = -1
