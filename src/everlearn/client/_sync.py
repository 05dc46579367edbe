"""The synchronous client, generated from `_async.py` by `python -m everlearn.client._generate`; do not edit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

import httpx

from everlearn.client import wire
from everlearn.client.records import (
    Answer,
    CommandOutcome,
    DecisionEntry,
    DecisionPage,
    FeedbackReply,
    Health,
    LearnReply,
    Lifecycle,
    VersionEntry,
    VersionPage,
)
from everlearn.records import Example, Feedback, Outcome, Scalar


class Client:
    """A client of an Everlearn server, with the methods of a loop over HTTP.

    It raises the errors that a loop raises in process (InputError, UnknownId, ConfigError, ...), RequestRefused for
    refusals that only a server has, and Unreachable. A request that is safe to repeat is sent again, up to `retries`
    times, when the connection breaks or the server is busy. Predictions and examples get their id before they are
    sent, so they are safe to repeat. `timeout` is in seconds for each attempt. `verify` may be an SSLContext that
    trusts your own certificate authority. All threads may share one client. Close it, or use it as a context manager.
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
        self._secure = self.url.startswith("https:")  # without TLS, skip loading the CA certificates, which is slow
        headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "everlearn"}
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers | ({"authorization": f"Bearer {token}"} if token else {}),
            timeout=timeout,
            limits=wire.LIMITS,
            verify=verify if self._secure else False,
            transport=transport,
        )

    # ---- predictions, feedback and examples ------------------------------------------------------------------

    def predict(
        self,
        features: Mapping[str, Any],
        id: str | None = None,
        *,
        explain: bool = False,
        actions: Sequence[Any] | None = None,
    ) -> Answer:
        """Return the prediction for one record.

        `id` may be your own key; the same record sent again with the same key gets the same answer. With `explain`,
        the answer holds the contribution of each field. `actions` lists what a bandit may choose (default: all of its
        actions): names, or dicts with a name and fields of the action. Raises InputError for a record that does not fit
        the schema, and for a key that already names another record.
        """
        body = wire.predict_body(features, id, actions)
        return wire.answer(self._request("POST", "/predict", body, _explained(explain)))

    def predict_many(
        self, instances: Sequence[Mapping[str, Any]], ids: Sequence[str | None] | None = None, *, explain: bool = False
    ) -> list[Answer]:
        """Return the predictions for several records, in their order. One bad record refuses the whole request."""
        body = wire.predict_many_body(instances, ids)
        return wire.answers(self._request("POST", "/predict", body, _explained(explain)))

    def feedback(
        self,
        id: str,
        label: Scalar | None = None,
        *,
        reward: float | None = None,
        chosen: int | None = None,
        weight: float = 1.0,
        source: str = "",
        handle: str = "",
    ) -> FeedbackReply:
        """Send feedback for the prediction `id`: its true `label`, a `reward`, or the index of the `chosen` answer.

        The same feedback sent twice counts once. `handle` is that of the answer: where the log encrypts, it saves a
        look-up. Raises UnknownId for an id that is not in the log, and InputError for feedback that the task cannot
        use.
        """
        body = wire.feedback_body(id, label, reward, chosen, weight, source, handle)
        return wire.decode(self._request("POST", "/feedback", body), FeedbackReply)

    def judge(
        self,
        id: str,
        chosen: int | None = None,
        *,
        verdict: Outcome = "choice",
        weight: float = 1.0,
        source: str = "",
        seconds: float = 0.0,
        why: str = "",
        handle: str = "",
    ) -> FeedbackReply:
        """Send the judgement of the pair `id`: the place of the preferred answer (0 or 1; -1: none), a tie or a skip.

        `seconds` is the time from shown to judged, `why` a rationale; neither is learned. `handle` is that of
        `feedback`, which names the errors.
        """
        body = wire.judgement_body(id, chosen, verdict, weight, source, seconds, why, handle)
        return wire.decode(self._request("POST", "/feedback", body), FeedbackReply)

    def feedback_many(self, rows: Sequence[Feedback]) -> FeedbackReply:
        """Send several `Label`, `Reward` or `Preference` records of `everlearn.records` in one request.

        Usable rows are accepted, and the others are listed in `.errors`. If no row is usable, raises the error of the
        first one.
        """
        return wire.decode(self._request("POST", "/feedback", wire.feedback_many_body(rows)), FeedbackReply)

    def learn(
        self, features: Mapping[str, Any], label: Scalar, weight: float = 1.0, id: str | None = None, source: str = ""
    ) -> LearnReply:
        """Send a record together with its label; the models are scored on it, then learn it."""
        body = wire.learn_body(features, label, weight, id, source)
        return wire.decode(self._request("POST", "/learn", body), LearnReply)

    def learn_many(self, rows: Sequence[Example]) -> LearnReply:
        """Send several `Example` records of `everlearn.records` in one request; an empty id is replaced by a new one.

        Usable rows are accepted, and the others are listed in `.errors`, as in `feedback_many`.
        """
        return wire.decode(self._request("POST", "/learn", wire.learn_many_body(rows)), LearnReply)

    # ---- versions and decisions ------------------------------------------------------------------------------

    def versions(self) -> list[VersionEntry]:
        """Return all versions, oldest first."""
        found: list[VersionEntry] = []
        after: int | None = 0
        while after is not None:
            content = self._request("GET", "/versions", parameters={"after": after, "limit": wire.PAGE})
            page = wire.decode(content, VersionPage)
            found += page.versions
            after = page.next
        return found

    def version(self, name: str) -> VersionEntry:
        """Return one version, named by its id, a unique prefix of it, or an alias."""
        return wire.decode(self._request("GET", wire.path("versions", name)), VersionEntry)

    def promote(self, version: str, reason: str = "asked for by the user") -> CommandOutcome:
        """Make a version, named by its id, a unique prefix of it, or an alias, the champion."""
        body = wire.command_body({"reason": reason})
        return self._command("POST", wire.path("versions", version, "promote"), body)

    def rollback(
        self,
        reason: str = "asked for by the user",
        *,
        to: str = "previous",
        without: Mapping[str, Any] | None = None,
    ) -> CommandOutcome:
        """Make the previous champion, or the version `to`, the champion again.

        `without` selects labels to exclude: {"source": "key-7"}, {"first": 1200, "last": 1300} (log positions), or
        both. The loop then goes back to a champion that had learned none of them, and learns the later events again.
        """
        excluded = dict(without) if without is not None else None
        body = wire.command_body({"reason": reason, "without": excluded, "to": to})
        return self._command("POST", "/rollback", body)

    def challenge(
        self, model: Mapping[str, Any], reason: str = "asked for by the user", *, warm: bool = True
    ) -> CommandOutcome:
        """Start a challenger from a spec such as `{"family": "linear"}`; `warm` trains it on the replay memory."""
        body = wire.command_body({"model": dict(model), "reason": reason, "warm": warm})
        return self._command("POST", "/challengers", body)

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
    ) -> CommandOutcome:
        """Merge two versions into a new one with two parents, which the gate compares with the champion."""
        settings = {"weights": list(weights), "ancestor": ancestor, "density": density, "scale": scale, "seed": seed}
        body = wire.command_body({"versions": [a, b], "method": method, "reason": reason, **settings})
        return self._command("POST", "/merge", body)

    def pause(self, reason: str = "asked for by the user") -> CommandOutcome:
        """Pause learning: labels that come from now on are scored, and no model learns them."""
        return self._command("POST", "/pause", wire.command_body({"reason": reason}))

    def resume(self, reason: str = "asked for by the user") -> CommandOutcome:
        """Learn on, from the next label."""
        return self._command("POST", "/resume", wire.command_body({"reason": reason}))

    def name(
        self, version: str, name: str = "", *, note: str = "", reason: str = "asked for by the user"
    ) -> CommandOutcome:
        """Give a version a name by which it can be found from now on, a note, or both."""
        body = wire.command_body({"name": name, "note": note, "reason": reason})
        return self._command("POST", wire.path("versions", version, "name"), body)

    def withdraw(self, version: str, reason: str = "asked for by the user") -> CommandOutcome:
        """End a challenger."""
        return self._command("DELETE", wire.path("challengers", version), b"", {"reason": reason})

    def decisions(self, after: int = 0, limit: int | None = None) -> list[DecisionEntry]:
        """Return the decisions after position `after`, oldest first, with their reasons and seals; at most `limit`."""
        found: list[DecisionEntry] = []
        following: int | None = after
        while following is not None and (limit is None or len(found) < limit):
            size = wire.PAGE if limit is None else min(wire.PAGE, limit - len(found))
            content = self._request("GET", "/decisions", parameters={"after": following, "limit": size})
            page = wire.decode(content, DecisionPage)
            found += page.decisions
            following = page.next
        return found

    def event(self, id: str) -> Lifecycle:
        """Return everything in the log about a prediction or an example, and its state."""
        return wire.decode(self._request("GET", wire.path("events", id)), Lifecycle)

    # ---- the server ------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the state of the loop and of the server, as the dashboard shows it."""
        return wire.decode(self._request("GET", "/status"), dict[str, Any])

    def health(self) -> Health:
        """Report if the server answers, learns and keeps its staleness bound; raises Unreachable without a reply."""
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

    def _request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        parameters: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Send a request that is safe to repeat; return the content of the reply, or raise the error in it."""
        response = self._send(method, path, body, parameters, wire.AGAIN, True)
        if response.is_success:
            return response.content
        raise wire.error(response.status_code, response.content)

    def _command(
        self, method: str, path: str, body: bytes, parameters: Mapping[str, Any] | None = None
    ) -> CommandOutcome:
        """Send a command, which must not run twice: repeat it only after a 429 or if the server never received it."""
        response = self._send(method, path, body, parameters, frozenset({429}), False)
        if response.is_success:
            return wire.decode(response.content, CommandOutcome)
        raise wire.error(response.status_code, response.content)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes,
        parameters: Mapping[str, Any] | None,
        again: frozenset[int],
        repeatable: bool,
    ) -> httpx.Response:
        """Send a request; repeat it while its status is in `again` or, if it is repeatable, while no reply comes."""
        attempt = 0
        while True:
            last, wait = attempt >= self._retries, wire.pause(attempt)
            try:
                with self._slots:
                    response = self._http.request(method, path, content=body, params=parameters)
            except httpx.TransportError as error:
                if last or not (repeatable or wire.never_sent(error)):
                    raise wire.unreachable(self.url, error) from error
            else:
                if last or response.status_code not in again:
                    return response
                wait = wire.pause(attempt, response.headers.get("retry-after", ""))
            time.sleep(wait)
            attempt += 1


def _explained(explain: bool) -> dict[str, str] | None:
    return {"explain": "1"} if explain else None
