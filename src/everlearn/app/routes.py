"""The table of the server's HTTP routes: method, path, scope, endpoint, parameters, body, responses and refusals.

The admin process serves the routes that name an endpoint, the generator those that say so, where the loop learns
preferences, and the workers serve the others. The OpenAPI document and the test of `docs/reference/http.md` read the
same table. Messages are in `everlearn.client.records`.
"""

from __future__ import annotations

from everlearn.app.route_types import Parameter, Response, Route
from everlearn.client import label_records, place_records, records
from everlearn.client.records import Scope
from everlearn.events import KINDS

PAGE, LONGEST_PAGE = 100, 1000  # entries of a page: by default, and at most
LARGEST = (1 << 63) - 1  # position
TEXT, HTML = "text/plain", "text/html"

__all__ = ["ROUTES", "Parameter", "Response", "Route", "find", "scope_of"]


def _in_path(name: str, description: str) -> Parameter:
    return Parameter(name, "path", description, {"type": "string", "minLength": 1})


VERSION = "A version: its id, a unique prefix of it, or an alias such as champion."
AFTER = Parameter(
    "after",
    "query",
    "Continue after this position, in the requested order; `next` of the previous page.",
    {"type": "integer", "minimum": 0, "maximum": LARGEST, "default": 0},
)
LIMIT = Parameter(
    "limit",
    "query",
    "Maximum number of entries.",
    {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": PAGE},
)
ORDER = Parameter(
    "order",
    "query",
    "Whether the oldest or the newest entry comes first.",
    {"type": "string", "enum": ["oldest", "newest"], "default": "oldest"},
)
KIND = Parameter(
    "kind",
    "query",
    "Return only events of these kinds.",
    {"type": "array", "items": {"type": "string", "enum": list(KINDS.values())}},
)
REASON = Parameter(
    "reason", "query", "Recorded with the decision.", {"type": "string", "minLength": 1, "maxLength": 1000}
)
EXPLAIN = Parameter(
    "explain", "query", "1, true or yes: add the contribution of each field.", {"type": "string", "examples": ["1"]}
)
ANNOTATOR = Parameter(
    "annotator", "query", "The annotator's name.", {"type": "string", "minLength": 1, "maxLength": 64}
)
ON_SCREEN = Parameter(
    "after",
    "query",
    "The id of the pair on the annotator's screen: get the one that follows it, ahead of time.",
    {"type": "string", "maxLength": 200},
)
PAIR = Parameter("id", "query", "The id of a pair.", {"type": "string", "minLength": 1, "maxLength": 200})
LISTING = (AFTER, LIMIT, ORDER)

BODY = (400, 413, 415, 422)
UNAVAILABLE = (503,)
COMMAND = {
    200: Response("The learner has carried out the command.", (records.CommandOutcome,)),
    202: Response("The command is in the log; the learner has not carried it out yet.", (records.CommandOutcome,)),
}


def _command(path: str, endpoint: str, tag: str, summary: str, body: type) -> Route:
    """Return the route of a command: it is an order in the log, and the reply says what came of it."""
    about = (_in_path("id", VERSION),) if "{id}" in path else ()
    errors = (*BODY, 404, 409, *UNAVAILABLE) if about else (*BODY, 409, *UNAVAILABLE)
    return Route("POST", path, "admin", endpoint, tag, summary, COMMAND, errors, about, (body,))


ROUTES = (
    # ---- served by the workers -------------------------------------------------------------------------------------
    Route(
        "POST",
        "/predict",
        "predict",
        "",
        "loop",
        "Predict one record or several; each prediction is in the log before it is returned.",
        {200: Response("The answer, or the answers in the order of the instances.", (records.Answer, records.Answers))},
        (*BODY, 409, *UNAVAILABLE),
        (EXPLAIN,),
        (records.PredictRequest,),
    ),
    Route(
        "POST",
        "/feedback",
        "feedback",
        "",
        "loop",
        "Send the true label, a reward or a preference for earlier predictions.",
        {200: Response("The number of accepted rows, and the unusable ones.", (records.FeedbackReply,))},
        (*BODY, 404, 409, *UNAVAILABLE),
        (),
        (records.FeedbackRow, records.FeedbackRows),
    ),
    Route(
        "POST",
        "/learn",
        "feedback",
        "",
        "loop",
        "Send records together with their labels; the models are scored on them, then learn them.",
        {200: Response("The number of accepted rows, and the unusable ones.", (records.LearnReply,))},
        (*BODY, 409, *UNAVAILABLE),
        (),
        (records.LearnRow, records.LearnRows),
    ),
    Route(
        "GET",
        "/healthz",
        None,
        "",
        "server",
        "Check that the worker can answer. Restart it if this fails.",
        {200: Response("The worker can answer; the reply holds its staleness.", (records.Healthy,))},
        UNAVAILABLE,
    ),
    # ---- served by the generator, where the loop learns preferences ------------------------------------------------
    Route(
        "POST",
        "/v1/chat/completions",
        "predict",
        "chat.completions",
        "chat",
        "Answer a chat, in the form of OpenAI's API; the last part is sent once the answer is in the log.",
        {200: Response("The answers, or with `stream` a stream of server-sent events.", (dict,))},
        (400, 404, 413, *UNAVAILABLE),
        (),
        (dict,),
        generated=True,
    ),
    Route(
        "GET",
        "/v1/models",
        "predict",
        "chat.models",
        "chat",
        "List the names of the served model, in the form of OpenAI's API.",
        {200: Response("The names.", (dict,))},
        generated=True,
    ),
    Route(
        "POST",
        "/v1/feedback",
        "feedback",
        "feedback.feedback",
        "chat",
        "Send what a user did with an answer: a thumb, a rating, an edit, a retry, an acceptance, a choice.",
        {200: Response("The number of judgements that follow from it.", (label_records.ChatFeedbackReply,))},
        (400, 404, 409, 413, *UNAVAILABLE),
        (),
        (label_records.ChatFeedback,),
        generated=True,
    ),
    Route(
        "GET",
        "/label/next",
        "feedback",
        "label.next_pair",
        "label",
        "Get a pair of answers to judge: the one on the annotator's screen, else another one.",
        {200: Response("The pair, and the annotator's progress.", (label_records.LabelPair,))},
        (400, *UNAVAILABLE),
        (ANNOTATOR, ON_SCREEN),
        generated=True,
    ),
    Route(
        "GET",
        "/label/answers",
        "feedback",
        "version_answers.answers",
        "label",
        "Answer the prompt of a pair with the first version of the policy, and with the present one.",
        {200: Response("Both answers, which are not logged.", (label_records.VersionAnswers,))},
        (400, 404, *UNAVAILABLE),
        (PAIR,),
        generated=True,
    ),
    Route(
        "POST",
        "/label/judge",
        "feedback",
        "label.judge",
        "label",
        "Judge a pair; a second verdict of the same annotator corrects the first.",
        {200: Response("The verdict is in the log.", (label_records.JudgeReply,))},
        (*BODY, 404, *UNAVAILABLE),
        (),
        (label_records.JudgeRequest,),
        generated=True,
    ),
    Route(
        "POST",
        "/label/undo",
        "feedback",
        "label.undo",
        "label",
        "Show the last judged pair again, or undo all judgements of an annotator, which needs the scope admin.",
        {
            200: Response("The last judged pair, to be judged again.", (label_records.UndoReply,)),
            202: Response("The command to undo everything is in the log.", (label_records.UndoReply,)),
        },
        (*BODY, 409, *UNAVAILABLE),
        (),
        (label_records.UndoRequest,),
        generated=True,
    ),
    Route(
        "GET",
        "/v1/preferences",
        "read",
        "asking_status.status",
        "label",
        "Return the state of asking, what judgements cost, and how far their sources agree.",
        {200: Response("The state of asking.", (label_records.AskingStatus,))},
        UNAVAILABLE,
        generated=True,
    ),
    # ---- served by the admin process -------------------------------------------------------------------------------
    Route(
        "GET",
        "/versions",
        "read",
        "views.versions",
        "versions",
        "List the versions, with aliases and parents.",
        {200: Response("A page of versions.", (records.VersionPage,))},
        (400,),
        LISTING,
    ),
    Route(
        "GET",
        "/versions/{id}",
        "read",
        "views.version",
        "versions",
        "Show one version.",
        {200: Response("The version.", (records.VersionEntry,))},
        (404,),
        (_in_path("id", VERSION),),
    ),
    Route(
        "GET",
        "/versions/{a}/diff/{b}",
        "read",
        "views.diff",
        "versions",
        "Compare two versions: settings, metrics, distance between their arrays, and common ancestor.",
        {200: Response("The two versions side by side.", (records.Diff,))},
        (404,),
        (_in_path("a", VERSION), _in_path("b", VERSION)),
    ),
    _command(
        "/versions/{id}/promote", "commands.promote", "versions", "Make a version the champion.", records.PromoteCommand
    ),
    _command(
        "/rollback",
        "commands.rollback",
        "versions",
        "Go back to a former champion, optionally learning again without some labels.",
        records.RollbackCommand,
    ),
    _command(
        "/versions/{id}/name",
        "commands.name",
        "versions",
        "Give a version a name, a note, or both.",
        records.NameCommand,
    ),
    _command(
        "/pause",
        "commands.pause",
        "versions",
        "Pause learning: labels that come from now on are scored, and no model learns them.",
        records.PauseCommand,
    ),
    _command(
        "/resume",
        "commands.resume",
        "versions",
        "Learn on, from the next label.",
        records.PauseCommand,
    ),
    _command(
        "/merge",
        "commands.merge",
        "versions",
        "Merge two versions into a new one with two parents, which the gate compares with the champion.",
        records.MergeCommand,
    ),
    Route(
        "GET",
        "/decisions",
        "read",
        "views.decisions",
        "versions",
        "List the decisions with their reasons, evidence and seals.",
        {200: Response("A page of decisions.", (records.DecisionPage,))},
        (400,),
        LISTING,
    ),
    Route(
        "GET",
        "/challengers",
        "read",
        "views.challengers",
        "challengers",
        "List the models on the roster, with the evidence about each.",
        {200: Response("The champion, then the others.", (records.ChallengerList,))},
    ),
    _command(
        "/challengers",
        "commands.challenge",
        "challengers",
        "Start a challenger from a model spec; the gate compares it with the champion.",
        records.ChallengeCommand,
    ),
    Route(
        "DELETE",
        "/challengers/{version}",
        "admin",
        "commands.withdraw",
        "challengers",
        "End a challenger.",
        COMMAND,
        (400, 404, 409, 422, *UNAVAILABLE),
        (_in_path("version", VERSION), REASON),
    ),
    Route(
        "GET",
        "/events",
        "read",
        "views.events",
        "events",
        "Read the log.",
        {200: Response("A page of events.", (records.EventPage,))},
        (400,),
        (*LISTING, KIND),
    ),
    Route(
        "GET",
        "/events/{id:path}",
        "read",
        "views.event",
        "events",
        "Show everything about one id: its events, its state, and the decisions around them.",
        {200: Response("The lifecycle of the id.", (records.Lifecycle,))},
        (404,),
        (_in_path("id", "The id of a prediction or an example."),),
    ),
    Route(
        "GET",
        "/status",
        "read",
        "views.status",
        "server",
        "Show the state of the loop and the server: counts, lag, metrics, gate, traffic, the last ten minutes.",
        {200: Response("The current state.", (records.Status,))},
        UNAVAILABLE,
    ),
    Route(
        "GET",
        "/places",
        "read",
        "views.places",
        "server",
        "List the servers of the loop on a cluster, with their addresses and load.",
        {200: Response("The places; none where the loop is not on a cluster.", (place_records.PlaceList,))},
        UNAVAILABLE,
    ),
    Route(
        "GET",
        "/metrics",
        "read",
        "views.metrics",
        "server",
        "Export all metrics for Prometheus.",
        {200: Response("Metrics in the text format of Prometheus, or of OpenMetrics if the client prefers it.", TEXT)},
    ),
    Route(
        "GET",
        "/readyz",
        None,
        "views.health",
        "server",
        "Check that answers can be kept, the learner works and the staleness bound holds. Raise an alarm if not.",
        {200: Response("The server is healthy.", (records.Healthy,))},
        UNAVAILABLE,
    ),
    Route(
        "GET",
        "/openapi.json",
        "read",
        "views.openapi",
        "server",
        "Show this document.",
        {200: Response("An OpenAPI 3.1 document.", (dict,))},
    ),
    Route(
        "GET",
        "/session",
        None,
        "views.session",
        "pages",
        "Show the session of the page.",
        {200: Response("The session and its scopes.", (records.PageSession,))},
        (401,),
    ),
    Route(
        "POST",
        "/session",
        None,
        "views.login",
        "pages",
        "Log the page in with a token, and set a cookie.",
        {200: Response("The new session.", (records.PageSession,))},
        (*BODY, 401, 403, 429),
        (),
        (records.Login,),
    ),
    Route(
        "DELETE",
        "/session",
        None,
        "views.logout",
        "pages",
        "Log the page out.",
        {204: Response("The session has ended.", "")},
        (403,),
    ),
    Route(
        "GET",
        "/",
        None,
        "views.page",
        "pages",
        "Show the dashboard.",
        {200: Response("The page.", HTML)},
    ),
    Route(
        "GET",
        "/label",
        None,
        "views.page",
        "pages",
        "Show the page on which people judge pairs of answers, where the loop learns preferences.",
        {200: Response("The page.", HTML)},
        (404,),
    ),
    Route(
        "GET",
        "/docs",
        None,
        "views.page",
        "pages",
        "Show this document as a page.",
        {200: Response("The page.", HTML)},
    ),
    Route(
        "GET",
        "/static/{name}",
        None,
        "views.static",
        "pages",
        "Return a file of the pages.",
        {200: Response("The file.", "*/*")},
        (404,),
        (_in_path("name", "The name of the file."),),
    ),
)


def find(method: str, path: str) -> Route:
    """Return the route of a method and a path as the table writes it; raises KeyError if there is none."""
    for route in ROUTES:
        if (route.method, route.path) == (method, path):
            return route
    raise KeyError(f"{method} {path}")


def scope_of(method: str, path: str) -> Scope:
    """Return the scope that a route needs; raises KeyError for an unknown route and for one that needs none."""
    scope = find(method, path).scope
    if scope is None:
        raise KeyError(f"{method} {path} needs no scope")
    return scope
