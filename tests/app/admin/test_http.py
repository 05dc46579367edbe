"""Parameters and bodies that cannot be used are refused, with the field and the expected value."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.app.routes import ROUTES
from tests.support.admin import JSON


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nothing/here", 404, "/docs lists all paths"),
        ("GET", "/versions/", 404, "nothing at /versions/"),
        ("GET", "/versions/zzz", 404, "there is no version 'zzz'"),
        ("GET", "/versions/zzz/diff/champion", 404, "there is no version 'zzz'"),
        ("GET", "/versions?limit=0", 400, "limit: got '0', expected a whole number from 1 to 1000"),
        ("GET", "/versions?after=-1", 400, "after: got '-1'"),
        ("GET", "/decisions?order=up", 400, "order: got 'up', expected oldest or newest"),
        ("GET", "/events?limit=1001", 400, "limit: got '1001'"),
        ("GET", "/events?kind=label&kind=nonsense", 400, "kind: got 'nonsense', expected one of prediction, label"),
        ("PUT", "/versions", 405, "/versions has no PUT; expected GET, HEAD"),
        ("GET", "/rollback", 405, "/rollback has no GET; expected POST"),
        ("DELETE", "/challengers/zzz", 404, "there is no version 'zzz'"),
        ("DELETE", "/challengers/champion?reason=", 400, "reason: got '', expected 1 to 1000 letters"),
    ],
)
def test_refusals_say_what_was_wrong(opened, method, path, status, words):
    answer = opened.client.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert words in problem["detail"]
    assert problem["status"] == status
    if status == 405:
        assert answer.headers["allow"] == problem["expected"]


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[]", 422, "the body"),
        (b"{}", 422, "the body"),
        (b'{"reason": 7}', 422, "reason"),
        (b'{"reason": ""}', 422, "reason"),
        (b'{"reason": "x", "more": 1}', 422, "the body"),
        (b'{"reason": "x", "without": {"first": -1}}', 422, "without.first"),
        (b'{"reason": "x", "without": {}}', 422, None),
        (b'{"reason": "x", "without": {"first": 9, "last": 3}}', 422, "without"),
        (b'{"reason": "x", "to": "zzz"}', 422, None),
        (b'{"reason": "' + b"x" * (1 << 20) + b'"}', 413, "the body"),
    ],
)
def test_bodies_that_cannot_be_used_name_the_field(opened, body, status, where):
    end = opened.context.queries.end()
    answer = opened.client.post("/rollback", content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("where") == where
    assert opened.context.queries.end() == end


def test_json_that_is_nested_too_deeply(opened):
    body = b'{"reason": "x", "model": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    answer = opened.client.post("/challengers", content=body, headers=JSON)
    assert answer.status_code == 400
    assert "nested too deeply" in answer.json()["detail"]


WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([route.path for route in ROUTES if route.method == "GET" and route.endpoint]),
    WORDS.filter(bool),
    st.dictionaries(st.sampled_from(["after", "limit", "order", "kind", "x"]), WORDS, max_size=3),
)
def test_no_address_is_a_fault(opened, path, name, query):
    part = httpx.URL("http://x/", params={"p": name}).query.decode().removeprefix("p=")
    for hole in ("{id}", "{a}", "{b}", "{version}", "{name}", "{id:path}"):
        path = path.replace(hole, part)
    answer = opened.client.get(path, params=query)
    assert answer.status_code in (200, 400, 404), answer.text
