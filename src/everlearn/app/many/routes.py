"""The table of the routes that a server of many loops has beside those of its loops.

Each route of a single loop (`everlearn.app.routes`) is here below `/loops/NAME`, with the same records and errors.
`docs/reference/many.md` describes this table, which a test compares.
"""

from __future__ import annotations

from everlearn.app.route_types import Parameter, Response, Route
from everlearn.app.routes import HTML, LIMIT, TEXT
from everlearn.client import loop_records, records

NAME = Parameter("name", "path", "The name of a loop.", {"type": "string", "minLength": 1, "maxLength": 48})
SEARCH = Parameter("search", "query", "Return only loops whose name contains this.", {"type": "string"})
AFTER = Parameter(
    "after", "query", "Continue after this name; `next` of the previous page.", {"type": "string", "default": ""}
)

MANY_ROUTES = (
    Route(
        "GET",
        "/loops",
        "read",
        "views.loops",
        "loops",
        "List the loops in the order of their names.",
        {200: Response("A page of loops.", (loop_records.LoopPage,))},
        (400,),
        (SEARCH, AFTER, LIMIT),
    ),
    Route(
        "GET",
        "/loops/{name}",
        "read",
        "views.loop",
        "loops",
        "Show one loop, without loading it.",
        {200: Response("The loop.", (loop_records.LoopEntry,))},
        (404,),
        (NAME,),
    ),
    Route(
        "POST",
        "/loops/{name}",
        "admin",
        "views.create",
        "loops",
        "Create a loop with the settings of the template.",
        {
            200: Response("There was such a loop.", (loop_records.LoopEntry,)),
            201: Response("The loop is new.", (loop_records.LoopEntry,)),
        },
        (422, 503),
        (NAME,),
    ),
    Route(
        "GET",
        "/metrics",
        "read",
        "views.metrics",
        "server",
        "Export the metrics of the server for Prometheus.",
        {200: Response("Metrics in the text format of Prometheus, or of OpenMetrics if the client prefers it.", TEXT)},
    ),
    Route(
        "GET",
        "/healthz",
        None,
        "",
        "server",
        "Check that a worker answers. Restart it if this fails.",
        {200: Response("The worker answers.", (records.Healthy,))},
    ),
    Route(
        "GET",
        "/readyz",
        None,
        "views.health",
        "server",
        "Check that all processes run and the folder can be written. Raise an alarm if not.",
        {200: Response("The server is healthy.", (records.Healthy,))},
        (503,),
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
        (400, 401, 403, 413, 415, 422, 429),
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
    Route("GET", "/", None, "views.page", "pages", "Show all loops.", {200: Response("The page.", HTML)}),
    Route(
        "GET",
        "/static/{name}",
        None,
        "views.static",
        "pages",
        "Return a file of the pages.",
        {200: Response("The file.", "*/*")},
        (404,),
        (Parameter("name", "path", "The name of the file.", {"type": "string", "minLength": 1}),),
    ),
)
