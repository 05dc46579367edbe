"""The client: one source for both forms, errors as in process, manners when a server stumbles; then a real server."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from everlearn import errors
from everlearn.app.admin import responses
from everlearn.app.auth import create
from everlearn.app.problems import Refused, headers, problem
from everlearn.app.supervisor import Server
from everlearn.app.worker import requests
from everlearn.client import AsyncClient, Client, RequestRefused, Unreachable, _generate, results
from everlearn.records import Example, Label, Prediction, Preference, Reward
from everlearn.spec import GateSpec, Schema, ServeSpec, Spec

ANSWER = b'{"id": "a", "value": true, "proba": [0.25, 0.75], "version": "v1", "position": 7, "staleness": 0.5}'


@dataclass
class Asked:
    """A request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Stage:
    """A real HTTP server that replies as its script says; "drop" is a connection that breaks."""

    script: list[Any] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def replies(self, *script: Any) -> None:
        self.script[:] = script


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()

    class Actor(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def act(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            told = msgspec.json.decode(body) if body else None
            made.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, told))
            turn = made.script.pop(0) if len(made.script) > 1 else made.script[0]
            if turn == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if turn == "sleep":
                time.sleep(0.5)
                turn = ANSWER
            if isinstance(turn, Exception):
                status, content = problem(turn)
                more = [(name.decode(), value.decode()) for name, value in headers(turn)]
            else:
                status, content, more = 200, turn, [("content-type", "application/json")]
            self.send_response(status)
            for name, value in more:
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = act

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Actor)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Do not wait long between attempts."""
    monkeypatch.setattr("everlearn.client.wire.random.uniform", lambda *_: 0.01)
    monkeypatch.setattr("everlearn.client.wire._LONGEST", 0.01)


@pytest.fixture(params=["sync", "async"])
def call(request, stage) -> Callable[..., Any]:
    """Call a method of a client, of either form."""
    if request.param == "sync":

        def call_sync(method: str, *args: Any, **more: Any) -> Any:
            with Client(stage.url, token="el_a_0123456789abcdef", timeout=5.0) as client:
                return getattr(client, method)(*args, **more)

        return call_sync

    async def call_async(method: str, *args: Any, **more: Any) -> Any:
        async with AsyncClient(stage.url, token="el_a_0123456789abcdef", timeout=5.0) as client:
            return await getattr(client, method)(*args, **more)

    return lambda *args, **more: asyncio.run(call_async(*args, **more))


@contextmanager
def nobody() -> Iterator[str]:
    """The address of a port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


# ---- one source -------------------------------------------------------------------------------------------------


def test_the_synchronous_client_is_what_the_script_makes_of_the_other():
    made = _generate.generated(_generate.SOURCE.read_text(encoding="utf-8"))
    assert made == _generate.TARGET.read_text(encoding="utf-8"), "run `python -m everlearn.client._generate`"
    assert "async" not in made.partition("\n")[2]
    assert "await" not in made


def test_both_clients_have_the_same_methods():
    def face(kind: type) -> dict[str, str]:
        public = {name: one for name, one in vars(kind).items() if not name.startswith("_")}
        return {name.removeprefix("a"): str(inspect.signature(one)) for name, one in public.items() if callable(one)}

    assert face(Client) == face(AsyncClient)
    assert {"predict", "predict_many", "feedback", "feedback_many", "learn", "versions", "promote", "rollback"} <= {
        *face(Client)
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (results.Answer, requests.Answer),
        (results.RowError, requests.RowError),
        (results.Taken, requests.FeedbackReply),
        (results.Learned, requests.LearnReply),
        (results.VersionEntry, responses.VersionEntry),
        (results.DecisionEntry, responses.DecisionEntry),
        (results.Outcome, responses.Outcome),
        (results.Story, responses.Story),
    ],
)
def test_results_are_what_the_server_replies(ours, theirs):
    assert ours.__struct_fields__ == theirs.__struct_fields__


# ---- what is sent and understood --------------------------------------------------------------------------------


def test_a_prediction(stage, call):
    stage.replies(ANSWER)
    answer = call("predict", {"x": np.float32(0.5), "v": np.arange(2), "n": np.int64(3)}, explain=True)
    assert (answer.id, answer.value, answer.proba, answer.version) == ("a", True, (0.25, 0.75), "v1")
    assert (answer.position, answer.staleness) == (7, 0.5)
    (asked,) = stage.asked
    assert asked.path == "/predict?explain=1"
    assert asked.body["features"] == {"x": 0.5, "v": [0, 1], "n": 3}
    assert asked.headers["authorization"] == "Bearer el_a_0123456789abcdef"
    assert asked.headers["content-type"] == "application/json"


def test_several_predictions_share_position_and_staleness(stage, call):
    stage.replies(
        b'{"predictions": [{"id": "a", "value": 1.5, "proba": [], "version": "v"}], "position": 3, "staleness": null}'
    )
    (answer,) = call("predict_many", [{"x": 1}], ["mine"])
    assert (answer.value, answer.position, answer.staleness) == (1.5, 3, math.inf)
    assert stage.asked[0].body == {"instances": [{"x": 1}], "ids": ["mine"]}


def test_feedback_of_each_kind(stage, call):
    stage.replies(b'{"accepted": 1, "known": 0}')
    assert call("feedback", "a", False).accepted == 1
    call("feedback", "a", reward=0.5, weight=2.0)
    call("feedback", "a", chosen=0, source="ann")
    call("feedback_many", [Label("a", 0), Reward("b", 1.0, 3.0), Preference("c", 2, source="bob")])
    assert [one.body for one in stage.asked] == [
        {"id": "a", "label": False, "weight": 1.0},
        {"id": "a", "reward": 0.5, "weight": 2.0},
        {"id": "a", "chosen": 0, "weight": 1.0, "source": "ann"},
        {
            "feedback": [
                {"id": "a", "label": 0, "weight": 1.0},
                {"id": "b", "reward": 1.0, "weight": 3.0},
                {"id": "c", "chosen": 2, "weight": 1.0, "source": "bob"},
            ]
        },
    ]


def test_examples(stage, call):
    stage.replies(b'{"accepted": 1, "ids": ["e"], "errors": [{"index": 1, "detail": "no"}]}')
    learned = call("learn", {"x": 1}, "fraud", id="e")
    assert (learned.ids, learned.errors) == (("e",), (results.RowError(1, "no"),))
    call("learn_many", [Example("", {"x": 1}, 1)])
    assert stage.asked[0].body == {"features": {"x": 1}, "label": "fraud", "id": "e", "weight": 1.0}
    assert len(stage.asked[1].body["examples"][0]["id"]) > 20


def test_lists_come_page_by_page(stage, call):
    entry = {"position": 1, "time": 0.0, "action": "drift", "at": 1, "reason": "r", "by": "drift", "alias": ""}
    entry |= {"version": "", "previous": "", "evidence": None, "detail": {}, "seal": "00", "added_later": 1}
    page = {"decisions": [entry], "total": 2, "chain": {"ok": True}}
    stage.replies(msgspec.json.encode(page | {"next": 5}), msgspec.json.encode(page | {"next": None}))
    assert len(call("decisions")) == 2
    assert [one.path for one in stage.asked] == ["/decisions?after=0&limit=1000", "/decisions?after=5&limit=1000"]
    stage.replies(msgspec.json.encode(page | {"next": 5}))
    assert len(call("decisions", after=3, limit=1)) == 1
    assert stage.asked[-1].path == "/decisions?after=3&limit=1"


def test_any_letter_may_stand_in_an_id(stage, call):
    stage.replies(errors.InputError("no"))
    with pytest.raises(errors.InputError):
        call("event", "a/b?c#d é%20")
    assert stage.asked[0].path == "/events/a%2Fb%3Fc%23d%20%C3%A9%2520"


def test_orders(stage, call):
    stage.replies(errors.ConfigError("no"))
    asks = [
        ("promote", ("v1", "why"), {}),
        ("rollback", ("why",), {"without": {"source": "bot", "first": 3, "last": 9}}),
        ("rollback", (), {}),
        ("challenge", ({"family": "linear"}, "why"), {}),
        ("merge", ("v1", "v2", "ties"), {"weights": (1, 2), "reason": "why"}),
        ("withdraw", ("v1", "why"), {}),
    ]
    merged = {"versions": ["v1", "v2"], "method": "ties", "reason": "why", "weights": [1, 2], "ancestor": ""}
    for method, arguments, more in asks:
        with pytest.raises(errors.ConfigError):
            call(method, *arguments, **more)
    assert [(one.method, one.path, one.body) for one in stage.asked] == [
        ("POST", "/versions/v1/promote", {"reason": "why"}),
        ("POST", "/rollback", {"reason": "why", "without": {"source": "bot", "first": 3, "last": 9}, "to": "previous"}),
        ("POST", "/rollback", {"reason": "asked for by the user", "to": "previous"}),
        ("POST", "/challengers", {"model": {"family": "linear"}, "reason": "why", "warm": True}),
        ("POST", "/merge", merged | {"density": 0.0, "scale": 1.0, "seed": 0}),
        ("DELETE", "/challengers/v1?reason=why", None),
    ]


def test_health_is_told_not_raised(stage, call):
    stage.replies(b'{"status": "ok", "staleness": 0.25}')
    assert call("health") == results.Health(True, "", 0.25)
    stage.replies(Refused(503, "Not healthy", "the learner is gone"))
    assert call("health") == results.Health(False, "the learner is gone")
    assert len(stage.asked) == 2  # it is told at once


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownId("no prediction with id 'a'"),
        errors.InputError("weight: got -1, expected a number from 0 to 1e30"),
        errors.ConfigError("there is no previous champion"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_as_in_process(stage, call, error):
    stage.replies(error)
    with pytest.raises(type(error)) as caught:
        call("feedback", "a", True)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("kind", [errors.LogError, errors.BlobError])
def test_files_of_the_server_that_fail_are_the_same_error_without_their_paths(stage, call, caplog, kind):
    caplog.set_level(logging.CRITICAL)
    stage.replies(kind("/srv/log: disk full"))
    with pytest.raises(kind, match="in its log under this id") as caught:
        call("predict", {"x": 1})
    assert "/srv" not in str(caught.value)


def test_a_version_whose_arrays_are_gone_is_a_blob_error(stage, call):
    stage.replies(Refused(409, "", "the arrays of v1 were pruned", type="blob"))
    with pytest.raises(errors.BlobError, match="were pruned"):
        call("promote", "v1")


@pytest.mark.parametrize(
    ("status", "kind"), [(400, errors.InputError), (409, errors.InputError), (413, errors.InputError)]
)
def test_what_a_request_got_wrong_is_an_input_error(stage, call, status, kind):
    stage.replies(Refused(status, "", "the id 'a' names another record", {"fix": "use another id"}))
    with pytest.raises(kind, match="names another record; use another id"):
        call("predict", {"x": 1}, "a")


def test_a_version_that_there_is_not_is_an_input_error(stage, call):
    stage.replies(Refused(404, "There is no such version", "there is no version 'zzz'", {"where": "id", "got": "zzz"}))
    with pytest.raises(errors.InputError, match="no version 'zzz'"):
        call("promote", "zzz")


@pytest.mark.parametrize("status", [401, 403, 404, 421, 500])
def test_what_only_a_server_refuses_has_its_status(stage, call, status):
    stage.replies(Refused(status, "", "not you", {"id": "x"}))
    with pytest.raises(RequestRefused, match="not you") as caught:
        call("status")
    assert (caught.value.status, caught.value.problem["id"]) == (status, "x")
    assert isinstance(caught.value, errors.EverlearnError)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"", b'{"id": 1}'])
def test_a_stranger_that_answers_is_not_understood(stage, call, content):
    stage.replies(content)
    with pytest.raises(RequestRefused, match="is this an Everlearn server"):
        call("predict", {"x": 1})


def test_a_redirect_is_not_followed_and_the_token_stays_here(stage, call):
    stage.replies(Refused(307, "", "elsewhere", headers=[(b"location", stage.url.encode() + b"/other")]))
    with pytest.raises(RequestRefused):
        call("predict", {"x": 1})
    assert [one.path for one in stage.asked] == ["/predict"]


@pytest.mark.parametrize("features", [{"x": object()}, {"x": {1: 2}.keys()}])
def test_what_json_cannot_say_is_refused_before_it_is_sent(stage, call, features):
    with pytest.raises(errors.InputError, match="cannot be sent as JSON"):
        call("predict", features)
    assert stage.asked == []


@pytest.mark.parametrize(
    ("method", "given", "more", "words"),
    [
        ("predict", ({"a": math.inf},), {}, r"^field 'a': got infinity, expected a finite number$"),
        ("predict", ({"a": np.float32("-inf")},), {}, r"^field 'a': got infinity"),
        ("predict", ({"v": np.array([1.0, np.inf])},), {}, r"^field 'v': got infinity"),
        ("predict_many", ([{"a": 1.0}, {"a": math.inf}],), {}, r"^instances\[1\]: field 'a': got infinity"),
        ("learn", ({"a": math.inf}, 1), {}, r"^field 'a': got infinity"),
        ("learn", ({"a": 1.0}, math.inf), {}, r"^got infinity, expected a category"),
        ("learn", ({"a": 1.0}, 1), {"weight": math.inf}, r"^weight: got inf, expected a number from 0 to 1e30$"),
        ("learn_many", ([Example("b", {"a": math.inf}, 1)],), {}, r"^examples\[0\]: field 'a': got infinity"),
        ("feedback", ("a",), {"label": math.inf}, r"^got infinity, expected a category"),
        ("feedback", ("a",), {"label": math.nan}, r"^the label is missing$"),
        ("feedback", ("a",), {"reward": math.nan}, r"^reward: got nan, expected a finite number$"),
        ("feedback_many", ([Label("a", 1), Label("b", math.inf)],), {}, r"^feedback\[1\]: got infinity"),
    ],
)
def test_what_json_would_turn_into_nothing_is_refused_in_the_words_of_a_loop(stage, call, method, given, more, words):
    with pytest.raises(errors.InputError, match=words):
        call(method, *given, **more)
    assert stage.asked == []


def test_a_feature_that_is_no_number_is_missing_as_in_process(stage, call):
    stage.replies(ANSWER)
    call("predict", {"a": math.nan, "b": None})
    assert stage.asked[0].body["features"] == {"a": None, "b": None}


def test_the_token_is_not_shown():
    with Client(token="el_a_0123456789abcdef") as client:
        assert "0123456789abcdef" not in repr(client)


# ---- asking again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stumble",
    ["drop", Refused(503, "", "starting"), Refused(502, "", "no desk"), Refused(429, "", "too fast")],
    ids=str,
)
def test_a_prediction_sent_again_is_the_same_prediction(stage, call, stumble):
    stage.replies(stumble, stumble, ANSWER)
    assert call("predict", {"x": 1}).id == "a"
    assert len({one.body["id"] for one in stage.asked}) == 1
    assert len(stage.asked) == 3


@pytest.mark.parametrize("method", ["predict_many", "learn", "feedback"])
def test_whatever_has_an_id_is_sent_again_with_the_same_body(stage, call, method):
    good = {
        "predict_many": b'{"predictions": []}',
        "learn": b'{"accepted": 1, "ids": ["a"]}',
        "feedback": b'{"accepted": 1, "known": 0}',
    }
    arguments = {"predict_many": ([{"x": 1}],), "learn": ({"x": 1}, 1), "feedback": ("a", 1)}
    stage.replies("drop", good[method])
    call(method, *arguments[method])
    assert stage.asked[0].body == stage.asked[1].body


@pytest.mark.parametrize("stumble", ["drop", Refused(503, "", "busy"), Refused(502, "", "no desk")], ids=str)
@pytest.mark.parametrize("order", ["promote", "rollback"])
def test_an_order_is_never_given_twice(stage, call, order, stumble):
    stage.replies(stumble)
    with pytest.raises((Unreachable, RequestRefused)):
        call(order, "v1")
    assert len(stage.asked) == 1


def test_a_server_that_stays_away_is_given_up(stage, call):
    stage.replies(Refused(503, "", "starting"))
    with pytest.raises(RequestRefused, match="starting"):
        call("status")
    assert len(stage.asked) == 5


def test_nobody_listens():
    with nobody() as url, Client(url, retries=1) as client, pytest.raises(Unreachable, match="everlearn serve"):
        client.predict({"x": 1})


def test_an_order_waits_for_a_server_that_is_starting(stage):
    """Nobody saw it, so it may be sent again."""
    with nobody() as url, Client(url, retries=2) as client:
        began = time.perf_counter()
        with pytest.raises(Unreachable):
            client.promote("v1")
        assert time.perf_counter() - began < 5
    assert stage.asked == []


def test_an_answer_that_takes_too_long_is_unreachable(stage):
    stage.replies("sleep")
    with Client(stage.url, timeout=0.05, retries=0) as client, pytest.raises(Unreachable, match="no answer"):
        client.predict({"x": 1})


# ---- a real server ----------------------------------------------------------------------------------------------


@dataclass
class Serving:
    """A server, and its tokens by name."""

    url: str
    tokens: dict[str, str]

    def client(self, name: str = "boss") -> Client:
        return Client(self.url, token=self.tokens.get(name, name))


@pytest.fixture(scope="module")
def serving(tmp_path_factory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("served")
    schema = Schema(label="fraud", task="binary", fields={"x": "numeric", "c": "categorical"}, classes=("no", "yes"))
    spec = Spec(schema=schema, mode="live", gate=GateSpec(minimum=100), serve=ServeSpec(port=0))
    scopes = {"boss": ["admin"], "shop": ["predict", "feedback"], "eyes": ["read"]}
    tokens = {name: create(home / "tokens.json", name, what, 1) for name, what in scopes.items()}
    with Server(spec, home) as server:
        yield Serving(server.url, tokens)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that within 20 seconds"
        time.sleep(0.05)


def test_a_life_in_short(serving):
    with serving.client() as client:
        answer = client.predict({"x": 1.0, "c": "NL"}, explain=True)
        assert set(answer.contributions or {}) >= {"x", "c"}
        assert sum(answer.proba) == pytest.approx(1.0, abs=1e-6)
        assert client.predict({"x": 1.0, "c": "NL"}, answer.id).value == answer.value
        assert client.feedback(answer.id, "yes") == results.Taken(1, 0)
        assert client.feedback(answer.id, "yes") == results.Taken(1, 1)
        many = client.predict_many([{"x": 2.0}, {"x": 3.0}], ["mine-a/b", None])
        assert many[0].id == "mine-a/b"
        taken = client.feedback_many([Label(many[0].id, "no"), Label("nobody", "no"), Label(many[1].id, "maybe")])
        assert (taken.accepted, [one.index for one in taken.errors]) == (1, [1, 2])
        assert client.learn({"x": 1.5}, "no", id="example-1").ids == ("example-1",)
        assert client.learn_many([Example("", {"x": 1.0 * k}, "no") for k in range(5)]).accepted == 5
        until(lambda: client.status()["examples"] >= 8)
        story = client.event("mine-a/b")
        assert [type(event.payload) for event in story.events] == [Prediction, Label]
        assert client.health().ok


def test_versions_and_orders(serving):
    with serving.client() as client:
        (version, *_) = client.versions()
        assert client.version("champion").id == version.id
        with pytest.raises(errors.InputError, match="serves already"):
            client.promote(version.id)
        outcome = client.challenge({"family": "linear"}, "to see that it works")
        assert outcome.folded
        assert outcome.decision.reason == "to see that it works"
        decisions = client.decisions()
        assert [one.position for one in decisions] == sorted(one.position for one in decisions)
        assert len({one.seal for one in decisions}) == len(decisions)
        assert client.decisions(limit=1) == decisions[:1]


def test_errors_are_those_of_the_loop(serving):
    with serving.client() as client:
        known = client.predict({"x": 1.0}).id
        with pytest.raises(errors.UnknownId, match="no prediction with id 'nobody'"):
            client.feedback("nobody", "yes")
        with pytest.raises(errors.InputError, match="expected one of 'no', 'yes'"):
            client.feedback(known, "maybe")
        with pytest.raises(errors.InputError, match="field 'x'"):
            client.predict({"x": "abc"})
        with pytest.raises(errors.InputError, match="names another record"):
            client.predict({"x": 2.0}, known)
        with pytest.raises(errors.InputError, match="no version 'zzz'"):
            client.promote("zzz")
        with pytest.raises(errors.ConfigError, match="'nothing' may not be started here"):
            client.challenge({"family": "nothing"})


@pytest.mark.parametrize(
    ("name", "may", "may_not"),
    [
        ("shop", ["predict", "feedback", "learn"], ["status", "decisions", "promote"]),
        ("eyes", ["status", "decisions"], ["predict", "learn", "promote"]),
        ("el_shop_00", [], ["predict", "learn", "status", "promote"]),
        ("", [], ["predict", "learn", "status", "promote"]),
    ],
)
def test_each_token_may_what_it_may(serving, name, may, may_not):
    with serving.client() as client:
        id = client.predict({"x": 1.0}).id
    calls: dict[str, Callable[[Client], Any]] = {
        "predict": lambda one: one.predict({"x": 1.0}),
        "feedback": lambda one: one.feedback(id, "yes"),
        "learn": lambda one: one.learn({"x": 1.0}, "yes"),
        "status": lambda one: one.status(),
        "decisions": lambda one: one.decisions(),
        "promote": lambda one: one.promote("champion"),
    }
    with serving.client(name) as client:
        for call in may:
            calls[call](client)
        for call in may_not:
            with pytest.raises(RequestRefused) as caught:
                calls[call](client)
            assert caught.value.status == (403 if name in serving.tokens else 401)


def test_a_page_logs_in_looks_acts_and_logs_out(serving):
    with httpx.Client(base_url=serving.url, headers={"sec-fetch-site": "same-origin"}) as page:
        assert page.get("/status").status_code == 401
        assert page.post("/session", json={"token": "el_boss_00"}).status_code == 401
        who = page.post("/session", json={"token": serving.tokens["boss"]})
        assert "HttpOnly" in who.headers["set-cookie"]
        assert page.get("/status").status_code == 200
        assert page.post("/rollback", json={"reason": "no"}).status_code == 403
        csrf = {"x-csrf-token": who.json()["csrf"]}
        challenger = {"model": {"family": "linear"}, "reason": "page"}
        # carried out, or refused by the loop, where as many contend as may: the page was let in
        assert page.post("/challengers", json=challenger, headers=csrf).status_code in (200, 202, 409)
        foreign = {**csrf, "sec-fetch-site": "cross-site"}
        assert page.post("/versions/champion/promote", json={"reason": "no"}, headers=foreign).status_code == 403
        assert page.post("/predict", json={"features": {"x": 1.0}}, headers=csrf).status_code == 401  # tokens only
        assert page.delete("/session").status_code == 204
        assert page.get("/status").status_code == 401


def test_other_names_are_not_this_server(serving):
    headers = {"host": "evil.example", "authorization": f"Bearer {serving.tokens['boss']}"}
    for path in ("/", "/status", "/session", "/static/app.js"):
        assert httpx.get(serving.url + path, headers=headers).status_code == 421
    assert httpx.post(serving.url + "/predict", json={"features": {}}, headers=headers).status_code == 421
