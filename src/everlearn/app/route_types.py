"""The types of the table of HTTP routes."""

from __future__ import annotations

from typing import Any, NamedTuple

from everlearn.client.records import Scope


class Parameter(NamedTuple):
    """A parameter of a route, with its JSON Schema; `place` is "path" or "query"."""

    name: str
    place: str
    description: str
    schema: dict[str, Any]


class Response(NamedTuple):
    """A successful response: JSON of one of some records, or text of a media type; "" for no content."""

    description: str
    content: tuple[type, ...] | str


class Route(NamedTuple):
    """One method of one path.

    `scope` is the scope that a token needs; None for routes that show nothing of the loop. `refusals` are the statuses
    of its problems, apart from those that every route has. `endpoint` is "module.function" in `app/admin`, or in
    `app/generator` where `generated` is true; "" for the routes of the workers.
    """

    method: str
    path: str
    scope: Scope | None
    endpoint: str
    tag: str
    summary: str
    responses: dict[int, Response]
    refusals: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: tuple[type, ...] = ()
    generated: bool = False

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it, without the converters of Starlette.

        >>> Route("GET", "/events/{id:path}", "read", "", "", "", {}).template
        '/events/{id}'
        """
        return self.path.replace(":path}", "}")
