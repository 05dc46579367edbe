"""The OpenAPI 3.1 document: the table of operations, the records of requests and replies, and the loop's own schema."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import msgspec

import everlearn
from everlearn.app.admin.routes import OPERATIONS, Operation, Reply
from everlearn.schema import width
from everlearn.schema.meaning import LARGEST
from everlearn.spec import MOST_ROWS, Schema, Spec

Document = dict[str, Any]

HEAVIEST = 1e30  # of a weight

EXAMPLES: dict[str, Any] = {
    "numeric": 1.5,
    "boolean": True,
    "categorical": "a",
    "text": "some words",
    "datetime": "2026-01-31T08:30",
}
PROBLEM = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457): what was got and expected, where, and what to do.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "where": {"type": "string"},
        "fix": {"type": "string"},
        "id": {"type": "string", "description": "Of a fault of the server: where its log tells more."},
    },
    "required": ["type", "title", "status", "detail"],
}
TAGS = {
    "loop": "Predict, tell what was right, learn.",
    "versions": "What was learned, what serves, and why.",
    "challengers": "Who competes with the champion.",
    "events": "The log.",
    "server": "How the server is.",
    "pages": "For people.",
}
TAKEN = {
    304: "The client has it already (If-None-Match).",
    400: "The request cannot be read.",
    401: "A token is needed.",
    403: "The token may not do this, or a foreign page asks.",
    404: "There is no such thing.",
    409: "It contradicts what there is.",
    413: "More than the limits allow.",
    415: "Not JSON.",
    421: "The server does not answer to this name.",
    422: "A value cannot be used.",
    429: "Too many requests.",
    502: "The desk cannot be reached; predictions are answered even so.",
    503: "It cannot be done now.",
    504: "The desk did not answer in time.",
}
_GUARDED = (401, 403, 421, 429)
_WORKER = ("/predict", "/feedback", "/learn", "/healthz")
_UNTAGGED = ("/metrics", "/session")  # always sent whole
_HERE = "#/components/schemas/"


def document(spec: Spec) -> Document:
    """The document of a server with this spec, as plain values."""
    records = [record for one in OPERATIONS for record in one.body]
    records += [record for one in OPERATIONS for reply in one.responses.values() for record in _records(reply)]
    refs, components = msgspec.json.schema_components(records, ref_template=f"{_HERE}{{name}}")
    named = dict(zip(records, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Everlearn",
            "version": everlearn.__version__,
            "description": f"A model that predicts {spec.schema.label!r} and keeps learning from its own traffic.",
        },
        "tags": [{"name": name, "description": what} for name, what in TAGS.items()],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": _specific(components, spec) | {"Problem": PROBLEM},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Needed once there is a token."}
            },
        },
    }


def _operation(one: Operation, named: Mapping[Any, Any]) -> Document:
    answers = {str(status): _reply(reply, named) for status, reply in one.responses.items()}
    if one.method == "GET" and one.path not in _UNTAGGED + _WORKER:
        answers["304"] = {"description": TAKEN[304]}
    refusals = {*one.refusals, *(_GUARDED if one.scope else (421,)), *(() if one.path in _WORKER else (502, 503, 504))}
    for status in sorted(refusals):
        answers[str(status)] = {
            "description": TAKEN[status],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    words = re.findall(r"\w+", one.path)
    found: Document = {
        "operationId": "_".join([one.method.lower(), *words]),
        "tags": [one.tag],
        "summary": one.summary,
        "x-scope": one.scope,
        "responses": dict(sorted(answers.items())),
    }
    if one.scope is None:
        found["security"] = []
    else:
        found["description"] = f"Needs a token with the scope `{one.scope}`, once there is a token."
    if one.parameters:
        found["parameters"] = [
            {"name": name, "in": place, "required": place == "path", "description": what, "schema": shape}
            for name, place, what, shape in one.parameters
        ]
    if one.body:
        found["requestBody"] = {"required": True, "content": _json(one.body, named)}
    return found


def _reply(reply: Reply, named: Mapping[Any, Any]) -> Document:
    if isinstance(reply.content, str):
        text: Document = {"content": {reply.content: {"schema": {"type": "string"}}}} if reply.content else {}
        return {"description": reply.what, **text}
    return {"description": reply.what, "content": _json(reply.content, named)}


def _records(reply: Reply) -> tuple[type, ...]:
    return () if isinstance(reply.content, str) else reply.content


def _json(records: tuple[type, ...], named: Mapping[Any, Any]) -> Document:
    schemas = [named[record] for record in records]
    return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}


# ---- the loop's own schema ---------------------------------------------------------------------------------------


def _specific(components: Mapping[str, Document], spec: Spec) -> dict[str, Document]:
    """The schemas of the records, where those of requests say what records and labels are in this loop."""
    told = {name: _cleaned(one) for name, one in components.items()}
    rows = MOST_ROWS
    record, target = {"$ref": f"{_HERE}Features"}, {"$ref": f"{_HERE}Target"}
    told |= {"Features": features(spec.schema), "Target": label(spec.schema)}
    asked = told["PredictRequest"]["properties"]
    one = {"features": record, "id": asked["id"]}
    several = {"instances": _rows(record, rows), "ids": asked["ids"] | {"maxItems": rows}}
    told["PredictRequest"] |= {
        "properties": one | several,
        "oneOf": [
            {"required": ["features"], "properties": {"instances": False, "ids": False}},
            {"required": ["instances"], "properties": {"features": False, "id": {"type": "null"}}},
        ],
    }
    told["LearnRow"]["properties"] |= {"features": record, "label": target}
    told["LearnRows"]["properties"]["examples"] = _rows({"$ref": f"{_HERE}LearnRow"}, rows)
    told["FeedbackRows"]["properties"]["feedback"] = _rows({"$ref": f"{_HERE}FeedbackRow"}, rows)
    judged = told["FeedbackRow"]
    judged["properties"]["label"] = target
    del judged["properties"]["chosen"]  # no built-in family learns from preferences
    if spec.schema.task == "regression":
        judged["properties"]["reward"] = target
        judged["oneOf"] = [{"required": ["label"]}, {"required": ["reward"]}]
    else:
        del judged["properties"]["reward"]
        judged["required"] = ["id", "label"]
    for row in ("LearnRow", "FeedbackRow"):
        told[row]["properties"]["weight"] |= {"minimum": 0, "maximum": HEAVIEST}
    return told


def features(declared: Schema) -> Document:
    """A record of this loop, as JSON Schema with an example.

    >>> features(Schema(label="y", task="regression", fields={"town": "categorical"}))["examples"]
    [{'town': 'a'}]
    """
    return {
        "title": "Features",
        "description": "A value for each field; what is absent or null is missing, what is not listed is ignored.",
        "type": "object",
        "properties": {name: _kind(kind) for name, kind in declared.fields.items()},
        "examples": [{name: _example(kind) for name, kind in declared.fields.items()}],
    }


def label(declared: Schema) -> Document:
    """What this loop predicts, as JSON Schema."""
    if declared.task == "regression":
        return {"title": "Target", "description": f"{declared.label}: a number.", **_NUMBER}
    return {"title": "Target", "description": f"{declared.label}: one of its classes.", "enum": [*declared.classes]}


_NUMBER: Document = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
_KINDS: dict[str, Document] = {
    "numeric": {**_NUMBER, "type": ["number", "null"]},
    "boolean": {"type": ["boolean", "null"]},
    "categorical": {"type": ["string", "number", "boolean", "null"], "minimum": -LARGEST, "maximum": LARGEST},
    "text": {"type": ["string", "null"]},
    "datetime": {"type": ["string", "null"], "format": "date-time"},
}


def _kind(kind: str) -> Document:
    if kind in _KINDS:
        return {"description": kind, **_KINDS[kind]}
    length = width(kind)
    items = {**_NUMBER, "type": ["number", "null"]}
    return {"description": kind, "type": ["array", "null"], "items": items, "minItems": length, "maxItems": length}


def _example(kind: str) -> Any:
    return EXAMPLES[kind] if kind in EXAMPLES else [0.5] * width(kind)


def _rows(record: Document, most: int) -> Document:
    return {"type": "array", "items": record, "minItems": 1, "maxItems": most}


def _cleaned(found: Document) -> Document:
    """A schema of msgspec's with its docstring as it reads in an editor."""
    return found | ({"description": inspect.cleandoc(found["description"])} if "description" in found else {})
