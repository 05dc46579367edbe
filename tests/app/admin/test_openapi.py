"""The OpenAPI document describes the loop, and no reply of a real server contradicts it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from everlearn.app.admin.openapi import LINKS, document, features
from everlearn.app.routes import ROUTES, Route
from everlearn.app.supervisor import Server
from everlearn.errors import InputError
from everlearn.feedback.names import FieldNames
from everlearn.schema import Encoder
from everlearn.serve import snapshot
from everlearn.spec import Schema, ServeSpec, Spec
from tests.support.admin import grown

FIELDS = {
    "amount": "numeric",
    "known": "boolean",
    "country": "categorical",
    "note": "text",
    "at": "datetime",
    "place": "vector[3]",
}
BINARY = Schema(label="fraud", task="binary", classes=(False, True), fields=FIELDS)
NUMBER = Schema(label="price", task="regression", fields=FIELDS)
PAIRS = Schema(label="chosen", task="preference", fields={"prompt": "text"}, vocabulary=9)


# ---- the document ------------------------------------------------------------------------------------------------


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


@pytest.mark.parametrize("schema", [BINARY, NUMBER], ids=["binary", "regression"])
def test_references_lead_somewhere_and_names_are_unique(schema):
    made = document(Spec(schema=schema))
    assert {f"#/components/schemas/{name}" for name in made["components"]["schemas"]} == set(references(made))
    names = [one["operationId"] for methods in made["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))
    links = [link["operationId"] for links in LINKS.values() for link in links.values()]
    assert {*LINKS, *links} <= set(names)
    assert msgspec.json.decode(msgspec.json.encode(made)) == made
    schemathesis.openapi.from_dict(made).validate()


def test_the_schema_of_records_is_that_of_the_loop():
    made = document(Spec(schema=BINARY))["components"]["schemas"]
    assert list(made["Features"]["properties"]) == list(FIELDS)
    assert made["Features"]["properties"]["place"]["maxItems"] == 3
    assert made["Target"]["enum"] == [False, True]
    assert "reward" not in made["FeedbackRow"]["properties"]
    assert "reward" in document(Spec(schema=NUMBER))["components"]["schemas"]["FeedbackRow"]["properties"]
    pairs = document(Spec(schema=PAIRS))["components"]["schemas"]
    assert {"chosen", "verdict", "seconds", "why"} <= pairs["FeedbackRow"]["properties"].keys()
    assert "label" not in pairs["FeedbackRow"]["properties"]
    assert not {"chosen", "verdict", "seconds", "why"} & made["FeedbackRow"]["properties"].keys()
    batch, problems = Encoder(BINARY).records(made["Features"]["examples"])
    assert problems == []
    assert len(batch) == 1


def test_strict_loops_state_that_other_names_are_refused():
    spec = Spec(schema=BINARY, strict=True, subject="who", ignore=("remark",))
    made = document(spec)["components"]["schemas"]["Features"]
    assert made["additionalProperties"] is False
    assert made["required"] == list(FIELDS)
    assert made["properties"].keys() == {*FIELDS, "fraud", "who", "id", "remark"}
    names = FieldNames(spec)
    (whole,) = made["examples"]
    records = [whole, whole | {"who": "a", "remark": 1, "id": 2, "fraud": True}, whole | {"other": 1}, {"amount": 1.0}]
    for record in records:
        try:
            names.check(record)
            taken = True
        except InputError:
            taken = False
        assert (set(made["required"]) <= record.keys() <= made["properties"].keys()) == taken, record
    assert "additionalProperties" not in document(Spec(schema=BINARY))["components"]["schemas"]["Features"]


NUMBERS = st.floats(-3.4e38, 3.4e38) | st.integers(-(10**30), 10**30)
VALUES = {
    "amount": NUMBERS,
    "known": st.booleans(),
    "country": st.text() | NUMBERS | st.booleans(),
    "note": st.text(),
    "at": st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    "place": st.lists(st.none() | NUMBERS, min_size=3, max_size=3),
}


@given(st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in VALUES.items()}))
def test_what_the_schema_of_records_allows_can_be_encoded(record):
    described = features(BINARY)["properties"]
    for name, value in record.items():
        kinds = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", type(None): "null"}
        assert kinds[type(value)] in described[name]["type"]
    assert Encoder(BINARY).records([record])[1] == []


# ---- the server against the document -----------------------------------------------------------------------------

SERVED = [route for route in ROUTES if not route.generated]  # the others need a loop that learns preferences


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("openapi") / "home"
    spec = msgspec.structs.replace(grown(home, examples=700), serve=ServeSpec(port=0))
    with Server(spec, home) as server:
        yield server.url
    shutil.rmtree(snapshot.folder(home))


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    checks = {
        # As many ids as instances, a version that exists: such things no schema says.
        "positive_data_acceptance": {"enabled": False},
        "negative_data_rejection": {"expected-statuses": [400, 404, 409, 413, 415, 422]},
    }
    # Records are taken more liberally than the document says: a number may come as text or truth value.
    liberal = {"positive_data_acceptance": {"enabled": False}, "negative_data_rejection": {"enabled": False}}
    operations = [
        {"include-path": path, "checks": liberal}
        for path in sorted(route.path for route in ROUTES if not route.endpoint)
    ]
    config = SchemathesisConfig.from_dict({"checks": checks, "operations": operations})
    schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json(), config=config)
    schema.config.update(base_url=url)
    return schema


def meets(described: Any, route: Route, examples: int) -> None:
    """Send many requests, good and bad; the document must have every reply."""
    quiet = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    modes = [GenerationMode.POSITIVE]
    if route.body or any(parameter.place != "path" for parameter in route.parameters):
        modes.append(GenerationMode.NEGATIVE)
    for mode in modes:

        @quiet
        @given(described[route.template][route.method].as_strategy(generation_mode=mode))
        def ask(case):
            case.call_and_validate(timeout=30)

        ask()


@pytest.mark.parametrize("route", SERVED, ids=lambda route: f"{route.method} {route.path}")
def test_no_answer_contradicts_the_document(described, route):
    meets(described, route, examples=8)


@pytest.mark.slow
@pytest.mark.parametrize("route", SERVED, ids=lambda route: f"{route.method} {route.path}")
def test_no_answer_contradicts_the_document_often(described, route):
    meets(described, route, examples=300)


def walks(described: Any, examples: int, steps: int) -> None:
    """Follow the links of the document, from reply to request; the document must have every reply.

    The server keeps what earlier walks did. So the same draws may find another number of challengers to follow a link
    to, which Hypothesis takes for a flaky definition: such a walk ends early, with all its replies checked.
    """
    quiet = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    wrong: list[BaseException] = []

    class Walk(described.as_state_machine()):  # type: ignore[misc]
        def validate_response(self, *given: Any, **more: Any) -> None:
            try:
                super().validate_response(*given, **more)
            except BaseException as error:
                wrong.append(error)
                raise

    with suppress(FlakyStrategyDefinition):
        Walk.run(settings=quiet)
    if wrong:
        raise wrong[0]


def test_no_walk_along_the_links_contradicts_the_document(described):
    walks(described, examples=10, steps=5)


@pytest.mark.slow
def test_no_walk_along_the_links_contradicts_the_document_often(described):
    walks(described, examples=60, steps=8)
