"""Request bodies as records: what is refused, and with which words."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.spec import MOST_ROWS
from tests.support.workers import JSON, RECORD, Site


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(["/predict", "/feedback", "/learn"]), body=st.binary(max_size=30) | JSON, deep=st.booleans()
)
def test_no_body_is_a_fault_of_the_server(
    tmp_path_factory: pytest.TempPathFactory, path: str, body: Any, deep: bool
) -> None:
    with closing(Site(tmp_path_factory.mktemp("home"))) as site:
        content = b"[" * 100_000 if deep else body
        assert site.once(path, content).status in (400, 422)
        assert site.events() == []


@pytest.mark.parametrize("id", ["", "x" * 201, 7])
def test_a_key_is_text_of_some_length(start, id):
    for path, body in (("/predict", {"features": RECORD}), ("/learn", {"features": RECORD, "label": "no"})):
        assert start().once(path, {**body, "id": id}).status == 422


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"instances": [RECORD] * (MOST_ROWS + 1)}),
        ("/feedback", {"feedback": [{"id": "p", "label": "yes"}] * (MOST_ROWS + 1)}),
        ("/learn", {"examples": [{"features": RECORD, "label": "yes"}] * (MOST_ROWS + 1)}),
    ],
)
def test_a_request_has_so_many_rows(start, path, body):
    site = start()
    reply = site.once(path, body)
    assert reply.status == 413
    assert f"got {MOST_ROWS + 1} rows in one request, expected at most {MOST_ROWS}" in reply.json()["detail"]
    assert site.events() == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, 'expected "features" (one record) or "instances"'),
        ({"features": RECORD, "instances": [RECORD]}, "features beside instances"),
        ({"features": RECORD, "ids": ["a"]}, "features beside instances or ids"),
        ({"instances": [RECORD], "id": "a"}, "a list of as many ids"),
        ({"instances": [RECORD], "ids": ["a", "b"]}, "got 2 keys, expected 1"),
        ({"instances": [RECORD, RECORD], "ids": ["a", "a"]}, "got 'a' twice"),
        ({"instances": []}, "length >= 1"),
        ({"instances": [RECORD, {"a": "x"}]}, "row 1: field 'a': got 'x', expected a number"),
        ({"feature": RECORD}, "unknown field"),
        ({"features": [1.0]}, "expected `object`, got `array`"),
        ([RECORD], "expected `object`, got `array`"),
    ],
)
def test_a_question_is_put_in_one_way(start, body, said):
    reply = start().once("/predict", body)
    assert reply.status == 422
    assert said in reply.json()["detail"]
