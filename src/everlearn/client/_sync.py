"""The client of a server, made of `_async.py` by `python -m everlearn.client._generate`: do not change it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

import httpx

from everlearn.client import wire
from everlearn.client.results import Answer, DecisionEntry, Health, Learned, Outcome, Story, Taken, VersionEntry
from everlearn.records import Example, Feedback, Scalar


class Client:
    """A client of an Everlearn server: what a loop does in process, over HTTP.

    Errors are those that the loop raises in process (InputError, UnknownId, ConfigError, ...), RequestRefused for what
    only a server refuses, and Unreachable. What may be sent twice without harm is sent again, up to `retries` times,
    when the connection breaks or the server is busy; predictions and examples have their id before they are sent, so
    they are among it. `timeout` is in seconds, for each attempt; `verify` may be an SSLContext that trusts your own
    authority. One client may be shared by all threads; close it, or use it as a context.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str = "",
        timeout: float = 10.0,
        retries: int = 4,
        verify: bool | SSLContext = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._retries = retries
        self._slots = wire.Slots(wire.AT_ONCE)
        self._secure = self.url.startswith("https:")  # else no authority's certificate need be read, which takes long
        headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "everlearn"}
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers | ({"authorization": f"Bearer {token}"} if token else {}),
            timeout=timeout,
            limits=wire.LIMITS,
            verify=verify if self._secure else False,
            transport=transport,
        )

    # ---- predicting and telling what was true ----------------------------------------------------------------

    def predict(self, features: Mapping[str, Any], id: str | None = None, *, explain: bool = False) -> Answer:
        """Answer one record; `id` may be a key of your own, and the same record under it gets the same answer.

        With `explain`, the answer says what each field contributed. Raises InputError for a record that the schema
        cannot take, and for a key that names another record.
        """
        return wire.answer(self._ask("POST", "/predict", wire.one(features, id), _explained(explain)))

    def predict_many(
        self, instances: Sequence[Mapping[str, Any]], ids: Sequence[str | None] | None = None, *, explain: bool = False
    ) -> list[Answer]:
        """Answer several records with one request, all or none of them."""
        return wire.answers(self._ask("POST", "/predict", wire.many(instances, ids), _explained(explain)))

    def feedback(
        self,
        id: str,
        label: Scalar | None = None,
        *,
        reward: float | None = None,
        chosen: int | None = None,
        weight: float = 1.0,
        source: str = "",
    ) -> Taken:
        """Say what the answer `id` should have been (`label`), how good it was (`reward`), or which was preferred.

        The same feedback sent twice counts once. Raises UnknownId for an id that is not in the log, and InputError
        for feedback that the task cannot use.
        """
        body = wire.judgement(id, label, reward, chosen, weight, source)
        return wire.decoded(self._ask("POST", "/feedback", body), Taken)

    def feedback_many(self, rows: Sequence[Feedback]) -> Taken:
        """Tell several judgements (`Label`, `Reward`, `Preference` of `everlearn.records`) with one request.

        Good ones are taken, the others listed in `.errors`; raises what is wrong with the first if none is good.
        """
        return wire.decoded(self._ask("POST", "/feedback", wire.judgements(rows)), Taken)

    def learn(
        self, features: Mapping[str, Any], label: Scalar, weight: float = 1.0, id: str | None = None, source: str = ""
    ) -> Learned:
        """Predict and learn at once, where the label is already known."""
        body = wire.example(features, label, weight, id, source)
        return wire.decoded(self._ask("POST", "/learn", body), Learned)

    def learn_many(self, rows: Sequence[Example]) -> Learned:
        """Give several examples (of `everlearn.records`; an empty id is made one) with one request."""
        return wire.decoded(self._ask("POST", "/learn", wire.examples(rows)), Learned)

    # ---- versions and decisions ------------------------------------------------------------------------------

    def versions(self) -> list[VersionEntry]:
        """Every version there is, oldest first."""
        found: list[VersionEntry] = []
        after: int | None = 0
        while after is not None:
            content = self._ask("GET", "/versions", parameters={"after": after, "limit": wire.PAGE})
            page = wire.decoded(content, wire.VersionPage)
            found += page.versions
            after = page.next
        return found

    def version(self, name: str) -> VersionEntry:
        """One version, by its id, a unique beginning of it, or an alias."""
        return wire.decoded(self._ask("GET", wire.path("versions", name)), VersionEntry)

    def promote(self, version: str, reason: str = "asked for by the user") -> Outcome:
        """Make a version (its id, a unique beginning of it, or an alias) the champion."""
        return self._order("POST", wire.path("versions", version, "promote"), wire.order({"reason": reason}))

    def rollback(
        self,
        reason: str = "asked for by the user",
        *,
        to: str = "previous",
        without: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Make the previous champion, or the version `to`, the champion again.

        `without` names labels: {"source": "key-7"}, {"first": 1200, "last": 1300} (log positions), or both. They are
        left out: what was learned since is learned again without them.
        """
        named = dict(without) if without is not None else None
        return self._order("POST", "/rollback", wire.order({"reason": reason, "without": named, "to": to}))

    def challenge(
        self, model: Mapping[str, Any], reason: str = "asked for by the user", *, warm: bool = True
    ) -> Outcome:
        """Start a challenger of a model spec, for instance `{"family": "linear"}`, warmed on what is remembered."""
        told = {"model": dict(model), "reason": reason, "warm": warm}
        return self._order("POST", "/challengers", wire.order(told))

    def merge(
        self,
        a: str,
        b: str,
        method: str = "linear",
        *,
        weights: Sequence[float] = (),
        ancestor: str = "",
        density: float = 0.0,
        scale: float = 1.0,
        seed: int = 0,
        reason: str = "asked for by the user",
    ) -> Outcome:
        """Merge two versions into a new one with two parents, which the gate compares with the champion."""
        dials = {"weights": list(weights), "ancestor": ancestor, "density": density, "scale": scale, "seed": seed}
        told = {"versions": [a, b], "method": method, "reason": reason, **dials}
        return self._order("POST", "/merge", wire.order(told))

    def withdraw(self, version: str, reason: str = "asked for by the user") -> Outcome:
        """End a challenger."""
        return self._order("DELETE", wire.path("challengers", version), b"", {"reason": reason})

    def decisions(self, after: int = 0, limit: int | None = None) -> list[DecisionEntry]:
        """What changed, or was refused, behind position `after`, in order, with reasons and seals; at most `limit`."""
        found: list[DecisionEntry] = []
        following: int | None = after
        while following is not None and (limit is None or len(found) < limit):
            size = wire.PAGE if limit is None else min(wire.PAGE, limit - len(found))
            content = self._ask("GET", "/decisions", parameters={"after": following, "limit": size})
            page = wire.decoded(content, wire.DecisionPage)
            found += page.decisions
            following = page.next
        return found

    def event(self, id: str) -> Story:
        """All that the log knows of a prediction or example, and what became of it."""
        return wire.decoded(self._ask("GET", wire.path("events", id)), Story)

    # ---- how the server is -----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Where the loop and the server stand: what the dashboard shows."""
        return wire.decoded(self._ask("GET", "/status"), dict[str, Any])

    def health(self) -> Health:
        """Whether the server answers, learns, and is as fresh as promised; raises Unreachable where nobody is."""
        response = self._send("GET", "/readyz", b"", None, frozenset({502, 504}), True)
        return wire.health(response.status_code, response.content)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        parameters: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Send what may be sent twice; return the content of the reply, or raise what was wrong."""
        response = self._send(method, path, body, parameters, wire.AGAIN, True)
        if response.is_success:
            return response.content
        raise wire.error(response.status_code, response.content)

    def _order(self, method: str, path: str, body: bytes, parameters: Mapping[str, Any] | None = None) -> Outcome:
        """Send what must not happen twice: again only if the server surely did not see it, or said "too fast"."""
        response = self._send(method, path, body, parameters, frozenset({429}), False)
        if response.is_success:
            return wire.decoded(response.content, Outcome)
        raise wire.error(response.status_code, response.content)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes,
        parameters: Mapping[str, Any] | None,
        again: frozenset[int],
        harmless: bool,
    ) -> httpx.Response:
        """Ask up to `retries` times more while the status is one of `again` or, if that is harmless, nobody replies."""
        attempt = 0
        while True:
            last, wait = attempt >= self._retries, wire.pause(attempt)
            try:
                with self._slots:
                    response = self._http.request(method, path, content=body, params=parameters)
            except httpx.TransportError as error:
                if last or not (harmless or wire.never_sent(error)):
                    raise wire.unreachable(self.url, error) from error
            else:
                if last or response.status_code not in again:
                    return response
                wait = wire.pause(attempt, response.headers.get("retry-after", ""))
            time.sleep(wait)
            attempt += 1


def _explained(explain: bool) -> dict[str, str] | None:
    return {"explain": "1"} if explain else None
