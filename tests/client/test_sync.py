"""The client against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from everlearn import errors
from everlearn.app.auth import create
from everlearn.app.supervisor import Server
from everlearn.client import Client, FeedbackReply, RequestRefused
from everlearn.records import Example, Label, Prediction
from everlearn.spec import GateSpec, Schema, ServeSpec, Spec


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
    spec = Spec(
        schema=schema, model={"family": "linear"}, mode="live", gate=GateSpec(minimum=100), serve=ServeSpec(port=0)
    )
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
        assert client.feedback(answer.id, "yes") == FeedbackReply(1, 0)
        assert client.feedback(answer.id, "yes") == FeedbackReply(1, 1)
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


def test_versions_and_commands(serving):
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
def test_each_token_has_its_scopes(serving, name, may, may_not):
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
