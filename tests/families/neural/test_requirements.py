"""What settings require of the trainer: consolidations that are scheduled, or left to the caller."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from everlearn.families.neural import requirements
from everlearn.families.neural.requirements import PlacedTerm, consolidates
from everlearn.families.neural.settings import read
from everlearn.families.neural.terms import FUNCTIONS

SHAPE = {"task": "binary", "dense": 4}


def placed(spec: dict[str, Any]) -> list[PlacedTerm]:
    return [(place, term, FUNCTIONS[type(term)]) for place, term in enumerate(read(spec).terms)]


@pytest.mark.parametrize(
    ("change", "warns"),
    [
        ({}, True),
        ({"consolidate": {"every": 100}}, False),
        ({"drift": {"detector": "adwin"}}, False),
        ({"drift": {"detector": "adwin", "consolidate": False}}, True),
        ({"consolidate": {"told": True}, "layout": 1}, False),
    ],
)
def test_a_term_without_a_scheduled_consolidation_is_logged_once(
    change: dict[str, Any], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    requirements._warn_unscheduled.cache_clear()
    spec = {**SHAPE, "terms": [{"kind": "replay"}, {"kind": "ewc"}], **change}
    with caplog.at_level(logging.WARNING):
        assert consolidates(read(spec), placed(spec))
        assert consolidates(read(spec), placed(spec))
    words = "the term 'ewc' acts at consolidations, and none is scheduled. Set consolidate.every to a number of rows"
    assert [words in record.getMessage() for record in caplog.records] == ([True] if warns else [])


def test_a_network_whose_terms_take_no_anchors_needs_no_consolidation() -> None:
    assert not consolidates(read(SHAPE), placed(SHAPE))
