"""The naive baselines of a loop answer by the labels that were noted before, and go on from their state."""

from __future__ import annotations

import numpy as np

from everlearn.feedback.pending import COMMON, LAST_KNOWN
from everlearn.learn.naive import NaiveBaselines
from tests.support.models import examples

ROW, ROWS = examples(1).batch, examples(2).batch


def test_noted_labels_and_rows_share_one_order() -> None:
    naive = NaiveBaselines("binary", 2)
    assert np.isnan(naive.now(ROW)[LAST_KNOWN]).all()
    naive.note(1.0, 1.0, ROW)
    assert naive.now(ROW)[LAST_KNOWN].tolist() == [[0.0, 1.0]]
    assert naive.now(ROW) is naive.now(ROW)  # nothing is computed again between two labels
    found = naive.rows(np.array([0.0, 1.0]), np.ones(2, np.float32), ROWS)
    assert found[LAST_KNOWN].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    naive.note(0.0, 0.0, ROW)  # no weight: it moves nothing
    assert naive.now(ROW)[LAST_KNOWN].tolist() == [[0.0, 1.0]]
    assert naive.now(ROW)[COMMON].tolist() == np.array([[2 / 5, 3 / 5]], np.float32).tolist()
    assert naive.known(found).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_a_state_holds_labels_that_wait() -> None:
    naive, again = NaiveBaselines("regression", 0), NaiveBaselines("regression", 0)
    naive.note(4.0, 1.0, ROW)
    again.load(naive.state())
    again.note(8.0, 1.0, ROW)
    now = again.now(ROW)
    assert (now[LAST_KNOWN].item(), now[COMMON].item()) == (8.0, 6.0)
    assert again.roles == {"last_label": LAST_KNOWN, "mean": COMMON}


def test_a_home_without_baselines_stays_without() -> None:
    naive = NaiveBaselines("binary", 2)
    naive.load({})
    naive.note(1.0, 1.0, ROW)
    assert (naive.now(ROW), naive.rows(np.ones(1), np.ones(1, np.float32), ROW), naive.state(), naive.roles) == (
        {},
        {},
        {},
        {},
    )
    assert naive.known({}) is None
