"""What the server does over HTTP, in a table: each route with its scope, parameters, body, replies and refusals.

`openapi.py` makes the document of it; the routes of the workers stand here beside those of the desk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from everlearn.app.admin import responses
from everlearn.app.admin.http import LARGEST, LONGEST_PAGE, PAGE
from everlearn.app.auth import Scope, Who
from everlearn.app.worker import requests
from everlearn.events import KINDS

TEXT, PAGE_OF_TEXT = "text/plain", "text/html"


class Parameter(NamedTuple):
    """One parameter of a route."""

    name: str
    place: str
    what: str
    schema: dict[str, Any]


class Reply(NamedTuple):
    """What a route answers: one of some records as JSON, or text of a media type, or nothing."""

    what: str
    content: tuple[type, ...] | str


class Operation(NamedTuple):
    """One method of one route. `refusals` are the statuses of the problems that it answers with."""

    method: str
    path: str
    scope: Scope | None
    tag: str
    summary: str
    responses: dict[int, Reply]
    refusals: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: tuple[type, ...] = ()


def _part(name: str, what: str) -> Parameter:
    return Parameter(name, "path", what, {"type": "string", "minLength": 1})


VERSION = "A version: its id, the beginning of it, or an alias such as champion."
AFTER = Parameter(
    "after",
    "query",
    "Go on behind this position, in the order asked for; `next` of the page before.",
    {"type": "integer", "minimum": 0, "maximum": LARGEST, "default": 0},
)
LIMIT = Parameter(
    "limit",
    "query",
    "How many to give at most.",
    {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": PAGE},
)
ORDER = Parameter(
    "order", "query", "Which end comes first.", {"type": "string", "enum": ["oldest", "newest"], "default": "oldest"}
)
KIND = Parameter(
    "kind",
    "query",
    "Only events of these kinds.",
    {"type": "array", "items": {"type": "string", "enum": list(KINDS.values())}},
)
REASON = Parameter("reason", "query", "Why.", {"type": "string", "minLength": 1, "maxLength": 1000})
EXPLAIN = Parameter(
    "explain",
    "query",
    "1, true or yes: give the contribution of each field as well.",
    {"type": "string", "examples": ["1"]},
)
LISTING = (AFTER, LIMIT, ORDER)

BODY = (400, 413, 415, 422)
UNWRITTEN = (503,)
LATER = Reply("The order is in the log; the learner has not carried it out yet.", (responses.Outcome,))
DONE = Reply("The learner has carried it out.", (responses.Outcome,))

OPERATIONS = (
    Operation(
        "POST",
        "/predict",
        "predict",
        "loop",
        "Answer one record, or several; each answer is in the log before it is given.",
        {
            200: Reply(
                "The answer, or the answers in the order of the instances.",
                (
                    requests.Answer,
                    requests.Answers,
                ),
            )
        },
        (*BODY, 409, *UNWRITTEN),
        (EXPLAIN,),
        (requests.PredictRequest,),
    ),
    Operation(
        "POST",
        "/feedback",
        "feedback",
        "loop",
        "Say what answers should have been, how good they were, or which was preferred; now, or days later.",
        {200: Reply("What was taken, and what was not.", (requests.FeedbackReply,))},
        (*BODY, 404, 409, *UNWRITTEN),
        (),
        (requests.FeedbackRow, requests.FeedbackRows),
    ),
    Operation(
        "POST",
        "/learn",
        "feedback",
        "loop",
        "Predict and learn at once, where the label is already known.",
        {200: Reply("What was taken, and what was not.", (requests.LearnReply,))},
        (*BODY, 409, *UNWRITTEN),
        (),
        (requests.LearnRow, requests.LearnRows),
    ),
    Operation(
        "GET",
        "/versions",
        "read",
        "versions",
        "List the versions, with aliases and parents.",
        {200: Reply("A page of versions.", (responses.VersionPage,))},
        (400,),
        LISTING,
    ),
    Operation(
        "GET",
        "/versions/{id}",
        "read",
        "versions",
        "Show one version.",
        {200: Reply("The version.", (responses.VersionEntry,))},
        (404,),
        (_part("id", VERSION),),
    ),
    Operation(
        "GET",
        "/versions/{a}/diff/{b}",
        "read",
        "versions",
        "Compare two versions: settings, metrics, how far the arrays moved, and how they are related.",
        {200: Reply("The two side by side.", (responses.Diff,))},
        (404,),
        (_part("a", VERSION), _part("b", VERSION)),
    ),
    Operation(
        "POST",
        "/versions/{id}/promote",
        "admin",
        "versions",
        "Make a version the champion.",
        {200: DONE, 202: LATER},
        (*BODY, 404, 409, *UNWRITTEN),
        (_part("id", VERSION),),
        (responses.Promote,),
    ),
    Operation(
        "POST",
        "/rollback",
        "admin",
        "versions",
        "Go back to a former champion, or learn again without some labels.",
        {200: DONE, 202: LATER},
        (*BODY, 409, *UNWRITTEN),
        (),
        (responses.Rollback,),
    ),
    Operation(
        "POST",
        "/merge",
        "admin",
        "versions",
        "Merge two versions into a new one with two parents, which the gate compares with the champion.",
        {200: DONE, 202: LATER},
        (*BODY, 409, *UNWRITTEN),
        (),
        (responses.Merge,),
    ),
    Operation(
        "GET",
        "/decisions",
        "read",
        "versions",
        "List the decisions with their reasons, evidence and seals.",
        {200: Reply("A page of decisions.", (responses.DecisionPage,))},
        (400,),
        LISTING,
    ),
    Operation(
        "GET",
        "/challengers",
        "read",
        "challengers",
        "List who is compared with whom, and the evidence so far.",
        {200: Reply("The champion and the others.", (responses.ChallengerList,))},
    ),
    Operation(
        "POST",
        "/challengers",
        "admin",
        "challengers",
        "Start a challenger from a model spec; the gate compares it with the champion.",
        {200: DONE, 202: LATER},
        (*BODY, 409, *UNWRITTEN),
        (),
        (responses.Challenge,),
    ),
    Operation(
        "DELETE",
        "/challengers/{version}",
        "admin",
        "challengers",
        "End a challenger.",
        {200: DONE, 202: LATER},
        (400, 404, 409, 422, *UNWRITTEN),
        (_part("version", VERSION), REASON),
    ),
    Operation(
        "GET",
        "/events",
        "read",
        "events",
        "Read the log.",
        {200: Reply("A page of events.", (responses.EventPage,))},
        (400,),
        (*LISTING, KIND),
    ),
    Operation(
        "GET",
        "/events/{id}",
        "read",
        "events",
        "Tell all about one id: its events, what became of them, and the decisions around them.",
        {200: Reply("The story of the id.", (responses.Story,))},
        (404,),
        (_part("id", "The id of an answer or an example."),),
    ),
    Operation(
        "GET",
        "/status",
        "read",
        "server",
        "Show how the loop and the server are: counts, lag, metrics, the gate, traffic, the last ten minutes.",
        {200: Reply("How everything is.", (responses.Status,))},
        (503,),
    ),
    Operation(
        "GET",
        "/metrics",
        "read",
        "server",
        "Show everything that is measured, for Prometheus.",
        {200: Reply("Metrics in the text format of Prometheus, or of OpenMetrics where that is preferred.", TEXT)},
    ),
    Operation(
        "GET",
        "/healthz",
        None,
        "server",
        "Say whether the worker that is asked can answer: restart it when it cannot.",
        {200: Reply("It can, and how stale its answers are.", (responses.Healthy,))},
        (503,),
    ),
    Operation(
        "GET",
        "/readyz",
        None,
        "server",
        "Say whether the server answers with what is fresh enough: alarm somebody when it does not.",
        {200: Reply("All is well.", (responses.Healthy,))},
        (503,),
    ),
    Operation(
        "GET",
        "/openapi.json",
        "read",
        "server",
        "Show this document.",
        {200: Reply("An OpenAPI 3.1 document.", (dict,))},
    ),
    Operation(
        "GET",
        "/session",
        None,
        "pages",
        "Say who the page is.",
        {200: Reply("Who the page is, and what it may do.", (Who,))},
        (401,),
    ),
    Operation(
        "POST",
        "/session",
        None,
        "pages",
        "Log the page in with a token: answers with a cookie.",
        {200: Reply("Who the page is now.", (Who,))},
        (*BODY, 401, 403, 429),
        (),
        (responses.Login,),
    ),
    Operation(
        "DELETE",
        "/session",
        None,
        "pages",
        "Log the page out.",
        {204: Reply("The session has ended.", "")},
        (403,),
    ),
    Operation("GET", "/", None, "pages", "Show the dashboard.", {200: Reply("The page.", PAGE_OF_TEXT)}),
    Operation("GET", "/docs", None, "pages", "Show this document as a page.", {200: Reply("The page.", PAGE_OF_TEXT)}),
    Operation(
        "GET",
        "/static/{name}",
        None,
        "pages",
        "Give a file of the pages.",
        {200: Reply("The file.", "*/*")},
        (404,),
        (_part("name", "The name of the file."),),
    ),
)
