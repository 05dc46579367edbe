"""The table of the routes that a server of many loops has beside those of its loops.

Each route of a single loop (`everlearn.app.routes`) is here below `/loops/NAME`, with the same records and errors. What
both servers have outside of loops is taken from that table.
`docs/reference/many.md` describes this table, which a test compares.
"""

from __future__ import annotations

from everlearn.app.route_types import Parameter, Response, Route
from everlearn.app.routes import LIMIT, find
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
    find("GET", "/metrics")._replace(summary="Export the metrics of the server for Prometheus."),
    find("GET", "/healthz")._replace(
        summary="Check that a worker answers. Restart it if this fails.",
        responses={200: Response("The worker answers.", (records.Healthy,))},
        refusals=(),
    ),
    find("GET", "/readyz")._replace(
        summary="Check that all processes run and the folder can be written. Raise an alarm if not."
    ),
    find("GET", "/session"),
    find("POST", "/session"),
    find("DELETE", "/session"),
    find("GET", "/")._replace(summary="Show all loops."),
    find("GET", "/static/{name}"),
)
