"""Rows that wait for a full minibatch, and rows that cannot be learned."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn.model import cut
from tests.support.neural_nets import CLASSES, DENSE, NUMBER, REPLAY, SPEC, bytes_of, examples, learn, one_thread, plain  # noqa: F401  (one_thread)


@pytest.mark.parametrize(("y", "weight"), [(np.nan, 1.0), (np.inf, 1.0), (1e30, 1.0), (1.0, 0.0), (1.0, np.nan)])
def test_rows_that_cannot_be_learned_change_nothing(y: float, weight: float) -> None:
    model, rows = el.build({**NUMBER, **REPLAY}), examples(34, DENSE, 0)
    learn(model, rows)
    before = bytes_of(model.arrays)
    said = model.learn(cut(rows, 0, 1).batch, np.array([y]), np.array([weight], np.float32))
    np.testing.assert_allclose(said, model.predict(cut(rows, 0, 1).batch), atol=1e-6)
    assert bytes_of(model.arrays) == before


def test_unusable_rows_in_between_are_as_if_they_had_not_come() -> None:
    rows = examples(60, DENSE, CLASSES)
    rows.weight[np.arange(60) % 4 == 1] = 0.0
    keep = rows.weight > 0
    model, other = el.build({**SPEC, **REPLAY}), el.build({**SPEC, **REPLAY})
    said = learn(model, rows)
    expected = other.learn(plain(rows.batch.dense[keep]), rows.y[keep], rows.weight[keep])
    assert (said[keep] == expected).all()
    assert bytes_of(model.arrays) == bytes_of(other.arrays)
