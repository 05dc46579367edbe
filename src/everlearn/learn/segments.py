"""The segments of one loop: which value of the field each row has, from the raw record to the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.feedback.pending import SEGMENT
from everlearn.metrics import SegmentTable
from everlearn.records import Arrays, Examples, Ints, Singles
from everlearn.schema.field import fields_of
from everlearn.schema.segments import checked, segment_name, segment_names
from everlearn.spec import Spec


class Segments:
    """The values of the field `metrics.segment` in the order in which the loop met them; without a field, nothing.

    A row that comes with its label brings the value in `Examples.segment`. A prediction gets its number when it is
    folded, and that waits with it for the label, as the answers of the naive baselines do. Raises `ConfigError` for a
    field that is not categorical, or that names people.
    """

    def __init__(self, spec: Spec, columns: int) -> None:
        """`columns` is the width of scores, in which a waiting number is held."""
        self.field = checked(spec.metrics.segment, spec.schema.fields, spec.subject)
        self._reading = fields_of(spec.schema).get(self.field)
        self.table = SegmentTable(self.field)
        self.restarted = False  # True after loading the state of another field
        self._columns = columns

    def named(self, records: Sequence[Mapping[str, Any]]) -> NDArray[np.bytes_] | None:
        """Return the values of n records for `Examples.segment`; None without a field."""
        if self._reading is None:
            return None
        return segment_names([record.get(self.field) for record in records], len(records), self._reading)

    def now(self, features: Mapping[str, Any]) -> dict[int, Singles]:
        """Return the segment of a prediction, in the form of scores (1, k), by the uid under which it waits."""
        if self._reading is None:
            return {}
        held = np.zeros((1, self._columns), np.float32)
        held[0, 0] = self.table.number([segment_name(features.get(self.field), self._reading)])[0]
        return {SEGMENT: held}

    def of(self, examples: Examples, predictions: Mapping[int, Singles]) -> Ints | None:
        """Return the segment of each row, int64 (n,), for `metrics.update`; None where they have none."""
        if not self.field:
            return None
        if SEGMENT in predictions:
            return predictions[SEGMENT][:, 0].astype(np.int64)
        return self.table.number(examples.segment) if examples.segment is not None else None

    def load(self, arrays: Arrays) -> None:
        """Restore the state of `table.state`; of another field, begin without values."""
        self.restarted = not self.table.load(arrays)
