"""One table of routes: the document and the reference are made from it, and every message is an HTTP record."""

from __future__ import annotations

import re

from everlearn.app.admin.openapi import document
from everlearn.app.routes import ROUTES, find
from everlearn.client import label_records, place_records, records
from everlearn.spec import Schema, Spec
from tests.support import ROOT

SCHEMA = Schema(label="fraud", task="binary", classes=(False, True), fields={"amount": "numeric"})


def described() -> set[tuple[str, str]]:
    return {(route.method, route.template) for route in ROUTES}


def test_no_route_is_in_the_table_twice():
    assert len(described()) == len(ROUTES)
    assert find("GET", "/events/{id:path}").template == "/events/{id}"


def test_the_workers_serve_the_hot_routes():
    served = {(route.method, route.path) for route in ROUTES if not route.endpoint}
    assert served == {("POST", "/predict"), ("POST", "/feedback"), ("POST", "/learn"), ("GET", "/healthz")}


def test_every_message_is_a_record_of_the_client():
    modules = (records, label_records, place_records)
    shared = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    plain = ("/openapi.json", "/v1/chat/completions", "/v1/models")  # documents of another form
    for route in ROUTES:
        contents = [response.content for response in route.responses.values() if isinstance(response.content, tuple)]
        for record in (*route.body, *(record for content in contents for record in content)):
            assert record in shared or (record is dict and route.path in plain), (route.path, record)
            assert record is dict or record.__module__.startswith("everlearn.client."), (route.path, record)


def test_every_route_is_in_the_openapi_document():
    pairs = Schema(label="chosen", task="preference", fields={"prompt": "text"}, vocabulary=9)
    paths = document(Spec(schema=pairs))["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == described()
    generated = {route.path for route in ROUTES if route.generated}
    assert generated
    assert document(Spec(schema=SCHEMA))["paths"].keys() == paths.keys() - generated


def test_every_route_is_described_and_every_description_is_of_a_route():
    page = (ROOT / "docs/reference/http.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### `(GET|POST|DELETE) (/[^`]*)`$", page, re.MULTILINE)) == described()
    sections = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    for route in ROUTES:
        section = next(part for part in sections if part.startswith(f"`{route.method} {route.template}`"))
        assert f"Scope: {route.scope or 'none'}." in section, route.path
        for parameter in route.parameters:
            assert f"`{parameter.name}`" in section, (route.path, parameter.name)
