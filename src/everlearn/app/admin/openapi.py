"""Build the OpenAPI 3.1 document from the table of routes, the HTTP records, and the schema of the loop."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import msgspec

import everlearn
from everlearn.app.routes import ROUTES, Response, Route
from everlearn.records import Task
from everlearn.schema import width
from everlearn.schema.meaning import LARGEST
from everlearn.spec import MOST_ROWS, Schema, Spec

Document = dict[str, Any]

HEAVIEST = 1e30  # largest weight of a label

EXAMPLES: dict[str, Any] = {
    "numeric": 1.5,
    "integer": 7,
    "boolean": True,
    "categorical": "a",
    "text": "some words",
    "tokens": ["a", "b"],
    "datetime": "2026-01-31T08:30",
}
PROBLEM = {
    "title": "Problem",
    "description": "An error (RFC 9457): the value received, the value expected, where, and how to fix it.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "where": {"type": "string"},
        "fix": {"type": "string"},
        "id": {"type": "string", "description": "For a fault of the server: the id of its entry in the server's log."},
    },
    "required": ["type", "title", "status", "detail"],
}
TAGS = {
    "loop": "Predict, send feedback, learn.",
    "versions": "Versions, decisions, and commands that change the champion.",
    "challengers": "Models compared with the champion.",
    "events": "The log.",
    "chat": "Answers of the language model, in the form of OpenAI's API; errors have that form, too.",
    "label": "Pairs for annotators.",
    "server": "Status, metrics, health.",
    "pages": "The dashboard and its session.",
}
STATUSES = {
    304: "Not modified: the client has this content already (If-None-Match).",
    400: "The body is not JSON, or a parameter is invalid.",
    401: "A token is needed.",
    403: "The token lacks the scope, or the request comes from another site.",
    404: "Not found.",
    409: "Conflict with the log: a key names another record, or the command cannot be carried out.",
    413: "The body or the number of rows exceeds its limit.",
    415: "The body is not declared as JSON, or is compressed in an unknown way.",
    421: "The server does not have this host name.",
    422: "A value is invalid.",
    429: "Too many requests.",
    502: "The admin process cannot be reached; predictions are not affected.",
    503: "Not possible at the moment; try again.",
    504: "The admin process did not answer in time.",
}
_ID, _VERSION = {"id": "$response.body#/id"}, {"id": "$response.body#/version"}
_LISTED = {"id": "$response.body#/versions/0/id"}
LINKS: dict[str, dict[str, Document]] = {  # by operation: what a reply is of use for
    "post_predict": {
        "feedback": {"operationId": "post_feedback", "requestBody": _ID},
        "event": {"operationId": "get_events_id", "parameters": _ID},
        "version": {"operationId": "get_versions_id", "parameters": _VERSION},
    },
    "post_learn": {"event": {"operationId": "get_events_id", "parameters": {"id": "$response.body#/ids/0"}}},
    "get_versions": {
        "version": {"operationId": "get_versions_id", "parameters": _LISTED},
        "promote": {"operationId": "post_versions_id_promote", "parameters": _LISTED},
    },
    "get_versions_id": {
        "promote": {"operationId": "post_versions_id_promote", "parameters": _ID},
        "name": {"operationId": "post_versions_id_name", "parameters": _ID},
    },
    "get_challengers": {
        "withdraw": {
            "operationId": "delete_challengers_version",
            "parameters": {"version": "$response.body#/challengers/0/version"},
        }
    },
    "post_challengers": {
        "withdraw": {
            "operationId": "delete_challengers_version",
            "parameters": {"version": "$response.body#/decision/version"},
        }
    },
}
_GUARDED = (401, 403, 421, 429)
_UNTAGGED = ("/metrics", "/session")  # without an ETag
_HERE = "#/components/schemas/"


def document(spec: Spec) -> Document:
    """Return the document for a server with this spec, as plain values."""
    routes = [route for route in ROUTES if not route.generated or spec.schema.task == "preference"]
    records = [record for route in routes for record in route.body]
    records += [record for route in routes for response in route.responses.values() for record in _records(response)]
    refs, components = msgspec.json.schema_components(records, ref_template=f"{_HERE}{{name}}")
    components = msgspec.json.decode(msgspec.json.encode(components))  # defaults may be tuples
    named = dict(zip(records, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Everlearn",
            "version": everlearn.__version__,
            "description": f"A model that predicts {spec.schema.label!r} and keeps learning from its own traffic.",
        },
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": _specific(components, spec) | {"Problem": PROBLEM},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed as soon as the server has a token.",
                }
            },
        },
    }


def _operation(route: Route, named: Mapping[Any, Any]) -> Document:
    responses = {str(status): _response(response, named) for status, response in route.responses.items()}
    admin = bool(route.endpoint)
    if route.method == "GET" and admin and not route.generated and route.path not in _UNTAGGED:
        responses["304"] = {"description": STATUSES[304]}
    for status in sorted(
        {*route.refusals, *(_GUARDED if route.scope else (421,)), *((502, 503, 504) if admin else ())}
    ):
        responses[str(status)] = {
            "description": STATUSES[status],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    id = "_".join([route.method.lower(), *re.findall(r"\w+", route.template)])
    if id in LINKS:
        for status in route.responses:
            responses[str(status)]["links"] = LINKS[id]
    operation: Document = {
        "operationId": id,
        "tags": [route.tag],
        "summary": route.summary,
        "x-scope": route.scope,
        "responses": dict(sorted(responses.items())),
    }
    if route.scope is None:
        operation["security"] = []
    else:
        operation["description"] = f"Needs a token with the scope `{route.scope}` as soon as the server has a token."
    if route.parameters:
        operation["parameters"] = [
            {"name": name, "in": place, "required": place == "path", "description": description, "schema": schema}
            for name, place, description, schema in route.parameters
        ]
    if route.body:
        operation["requestBody"] = {"required": True, "content": _json(route.body, named)}
    return operation


def _response(response: Response, named: Mapping[Any, Any]) -> Document:
    if isinstance(response.content, str):
        text: Document = {"content": {response.content: {"schema": {"type": "string"}}}} if response.content else {}
        return {"description": response.description, **text}
    return {"description": response.description, "content": _json(response.content, named)}


def _records(response: Response) -> tuple[type, ...]:
    return () if isinstance(response.content, str) else response.content


def _json(records: tuple[type, ...], named: Mapping[Any, Any]) -> Document:
    schemas = [named[record] for record in records]
    return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}


# ---- the schema of the loop --------------------------------------------------------------------------------------


def _specific(components: Mapping[str, Document], spec: Spec) -> dict[str, Document]:
    """Return the schemas of the records, with the features and labels of this loop in those of the requests."""
    schemas = {name: _cleaned(schema) for name, schema in components.items()}
    rows = MOST_ROWS
    record, target = {"$ref": f"{_HERE}Features"}, {"$ref": f"{_HERE}Target"}
    unused = spec.schema.label, "id", *spec.ignore
    beside: dict[str, Document] = {name: {"description": "Not a field."} for name in unused}
    if spec.subject:
        beside[spec.subject] = {"description": "The subject of the record.", **_KINDS["categorical"]}
    schemas |= {
        "Features": features(spec.schema, beside if spec.strict else None),
        "Target": label(spec.schema),
    }
    keys = schemas["PredictRequest"]["properties"]
    single = {"features": record, "id": keys["id"]}
    if spec.schema.actions:
        single["actions"] = _offers(spec.schema, keys["actions"])
    several = {"instances": _rows(record, rows), "ids": keys["ids"] | {"maxItems": rows}}
    schemas["PredictRequest"] |= {
        "properties": single | several,
        "oneOf": [
            {"required": ["features"], "properties": {"instances": False, "ids": False}},
            {"required": ["instances"], "properties": {"features": False, "id": {"type": "null"}, "actions": False}},
        ],
    }
    schemas["LearnRow"]["properties"] |= {"features": record, "label": target}
    schemas["LearnRows"]["properties"]["examples"] = _rows({"$ref": f"{_HERE}LearnRow"}, rows)
    schemas["FeedbackRows"]["properties"]["feedback"] = _rows({"$ref": f"{_HERE}FeedbackRow"}, rows)
    feedback = schemas["FeedbackRow"]
    _specify(feedback, spec.schema.task, target)
    for row in ("LearnRow", "FeedbackRow"):
        schemas[row]["properties"]["weight"] |= {"minimum": 0, "maximum": HEAVIEST}
    return schemas


def _specify(feedback: Document, task: Task, target: Document) -> None:
    """Leave in the schema of feedback only what the task can learn; `target` is the schema of a label."""
    properties = feedback["properties"]
    if task == "preference":
        del properties["label"]
        properties["chosen"] |= {"maximum": 1}
        properties["reward"] |= {"minimum": 0, "maximum": 1}
        unchosen = {"required": ["verdict"], "properties": {"verdict": {"enum": ["tie", "skip"]}, "chosen": False}}
        feedback["oneOf"] = [{"required": ["chosen"]}, unchosen, {"required": ["reward"]}]
        return
    for name in ("chosen", "verdict", "seconds", "why"):
        del properties[name]
    properties["label"] = target
    if task in ("regression", "bandit"):
        properties["reward"] = target
        feedback["oneOf"] = [{"required": ["label"]}, {"required": ["reward"]}]
    else:
        del properties["reward"]
        feedback["required"] = ["id", "label"]


def features(declared: Schema, strict: Mapping[str, Document] | None = None) -> Document:
    """Return the JSON Schema of a record of this loop, with an example.

    `strict` holds the names that a record may have beside its fields, where all others are refused; None: any name.

    >>> features(Schema(label="y", task="regression", fields={"town": "categorical"}))["examples"]
    [{'town': 'a'}]
    """
    made: Document = {
        "title": "Features",
        "description": "A value for each field. Absent or null: missing. Fields not listed are ignored.",
        "type": "object",
        "properties": {name: _kind(kind) for name, kind in declared.fields.items()},
        "examples": [{name: _example(kind) for name, kind in declared.fields.items()}],
    }
    if strict is not None:
        made["description"] = "A value for each field; null: missing. Fields not listed are refused."
        made["properties"] = {**strict, **made["properties"]}
        made |= {"required": [*declared.fields], "additionalProperties": False}
    return made


def _offers(declared: Schema, known: Document) -> Document:
    """Return the JSON Schema of the actions on offer; `known` is that of any list of them."""
    name = {"enum": [*declared.actions]}
    fields = {field: _kind(kind) for field, kind in declared.action_fields.items()}
    offer = {"type": "object", "properties": {"name": name, **fields}, "required": ["name"]}
    return known | {"items": {"anyOf": [name, offer | {"additionalProperties": False}]}}


def label(declared: Schema) -> Document:
    """Return the JSON Schema of the label."""
    if declared.task == "regression":
        return {"title": "Target", "description": f"{declared.label}: a number.", **_NUMBER}
    if declared.task == "bandit":
        bounds = {"type": "number", "minimum": declared.rewards[0], "maximum": declared.rewards[1]}
        return {"title": "Target", "description": f"{declared.label}: the reward of the action.", **bounds}
    if declared.task == "preference":
        return {"title": "Target", "description": "A loop that learns preferences takes no labels.", "not": {}}
    return {"title": "Target", "description": f"{declared.label}: one of its classes.", "enum": [*declared.classes]}


_NUMBER: Document = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
_KINDS: dict[str, Document] = {
    "numeric": {**_NUMBER, "type": ["number", "null"]},
    "integer": {**_NUMBER, "type": ["number", "null"]},
    "boolean": {"type": ["boolean", "null"]},
    "categorical": {"type": ["string", "number", "boolean", "null"], "minimum": -LARGEST, "maximum": LARGEST},
    "text": {"type": ["string", "null"]},
    "tokens": {"type": ["array", "null"], "items": {**_NUMBER, "type": ["string", "integer"]}},
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


def _rows(record: Document, limit: int) -> Document:
    return {"type": "array", "items": record, "minItems": 1, "maxItems": limit}


def _cleaned(schema: Document) -> Document:
    """Return a schema of msgspec with the indentation of its docstring removed."""
    return schema | ({"description": inspect.cleandoc(schema["description"])} if "description" in schema else {})
