"""The desk, asked over its own socket: what it shows is what the loop wrote, and what it is told the learner does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlearn as el
from everlearn import config
from everlearn.app import dashboard
from everlearn.app.admin import commands
from everlearn.app.admin.application import DOORS
from everlearn.app.auth import tokens
from everlearn.app.process import READY, Setup
from everlearn.events import connect
from everlearn.records import Prediction
from everlearn.spec import ServeSpec
from tests.support.admin import SPEC, Desk, desk, grown, learning, set_up, until

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    home = tmp_path_factory.mktemp("desk") / "home"
    with set_up(home, grown(home)) as made:
        yield made


@pytest.fixture(scope="module")
def open_desk(setup: Setup) -> Iterator[Desk]:
    """A desk whose learner runs."""
    with learning(setup), desk(setup) as opened:
        yield opened


def ordered(opened: Desk, method: str, path: str, **body: object) -> httpx.Response:
    return opened.client.request(method, path, content=msgspec.json.encode(body), headers=JSON)


# ---- what it shows -----------------------------------------------------------------------------------------------


def test_status_is_the_learners_and_the_desks(open_desk):
    answer = open_desk.get("/status")
    status = answer.json()
    assert status["counts"]["label"] == 11
    assert status["examples"] == 1510
    assert status["waiting"] == 20
    assert status["aliases"]["champion"] == open_desk.get("/versions/champion").json()["id"]
    assert status["workers"][0]["requests"] == 31
    assert [status["workers"][0][name] for name in ("errors", "refused", "faults")] == [1, 1, 0]
    assert status["server"]["version"] == el.__version__
    assert 0 <= status["age"] < 2
    lines = status["series"]
    assert {len(lines[name]) for name in ("time", "requests", "p50", "p99", "lag", "staleness", "metric")} == {
        len(line) for line in lines["replay"].values()
    }
    assert open_desk.get("/status", if_none_match=answer.headers["etag"]).status_code in (200, 304)


def test_the_chain_of_decisions_is_checked(open_desk):
    until(lambda: open_desk.get("/status").json()["chain"]["checked"] > 0)
    chain = open_desk.get("/status").json()["chain"]
    assert chain["ok"] is True
    assert chain["broken"] is None
    assert len(chain["head"]) == 64


@pytest.mark.parametrize("path", ["/versions", "/decisions", "/events?limit=20", "/versions/champion", "/openapi.json"])
def test_what_did_not_change_is_not_sent_again(open_desk, path):
    answer = open_desk.get(path)
    assert answer.status_code == 200
    again = open_desk.get(path, if_none_match=f'"other", W/{answer.headers["etag"]}')
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == answer.headers["etag"]
    assert open_desk.client.head(path).headers["etag"] == answer.headers["etag"]


def test_two_versions_side_by_side(open_desk):
    first, *_, last = [one["id"] for one in open_desk.get("/versions").json()["versions"]]
    diff = open_desk.get(f"/versions/{first[:8]}/diff/{last}").json()
    assert [diff["a"]["id"], diff["b"]["id"]] == [first, last]
    assert diff["common"] == first
    assert diff["steps"] >= 1
    assert any(one["moved"] > 0 for one in diff["arrays"])
    assert {one["name"] for one in diff["metrics"]} >= {"accuracy", "brier"}


def test_two_versions_without_arrays(open_desk, setup):
    first, *_, last = open_desk.get("/versions").json()["versions"]
    blob = Path(setup.home) / "blobs" / f"{first['blob']}.safetensors"
    content = blob.read_bytes()
    blob.unlink()
    try:
        diff = open_desk.get(f"/versions/{first['id']}/diff/{last['id']}").json()
        assert diff["arrays"] is None
        assert "pruned" in diff["missing"]
        assert diff["a"]["kept"] is False
    finally:
        blob.write_bytes(content)


def test_the_story_of_an_id(open_desk):
    learned, waiting = open_desk.get("/events/p0").json(), open_desk.get("/events/p1").json()
    assert [one["payload"]["kind"] for one in learned["events"]] == ["prediction", "label", "label"]
    assert (learned["state"], waiting["state"]) == ("learned", "waiting")
    assert "tried" in {one["reason"] for one in learned["decisions"]}
    assert open_desk.get("/events/p31").status_code == 404


def test_a_label_that_the_learner_set_aside(tmp_path):
    """A label that contradicts all that the model has seen, where quarantine is on."""
    home = tmp_path / "home"
    spec = config.convert(SPEC | {"limits": {"quarantine": 0.99}})
    draw = random.Random(2)
    with el.open(spec, home=home) as loop:
        for _ in range(3000):
            x = draw.choice([-3.0, -2.0, 2.0, 3.0])
            loop.learn({"x": x, "z": 0.0}, int(x > 0))
        loop.predict({"x": 3.0, "z": 0.0}, id="flipped")
        loop.feedback("flipped", label=0)
    with set_up(home, spec) as setup, learning(setup), desk(setup) as opened:
        until(lambda: opened.parts.traffic.status is not None)
        assert opened.get("/events/flipped").json()["state"] == "quarantined"
        assert "set_aside" not in opened.get("/status").json()


def test_an_id_may_hold_slashes(open_desk):
    answer = open_desk.get("/events/no/such%2Fid")
    assert answer.status_code == 404
    assert answer.json()["got"] == "no/such/id"


def test_challengers_with_their_evidence(open_desk):
    found = open_desk.get("/challengers").json()["challengers"]
    assert found[0]["role"] == "champion"
    assert {one["role"] for one in found} >= {"champion", "challenger", "frozen"}
    frozen = next(one for one in found if one["role"] == "frozen")
    assert frozen["evidence"]["reference_role"] == "champion"


def test_pages_are_under_the_strictest_policy(open_desk):
    for path in ("/", "/docs", *(f"/static/{name}" for name in dashboard.files())):
        answer = open_desk.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert open_desk.get(path, if_none_match=answer.headers["etag"]).status_code == 304
    assert open_desk.get("/static/../desk.py").status_code == 404
    assert open_desk.get("/static/%2e%2e%2fapp%2fdesk.py").status_code == 404


# ---- what it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nothing/here", 404, "/docs shows what there is"),
        ("GET", "/versions/", 404, "nothing at /versions/"),
        ("GET", "/versions/zzz", 404, "there is no version 'zzz'"),
        ("GET", "/versions/zzz/diff/champion", 404, "there is no version 'zzz'"),
        ("GET", "/versions?limit=0", 400, "limit: got '0', expected a whole number from 1 to 1000"),
        ("GET", "/versions?after=-1", 400, "after: got '-1'"),
        ("GET", "/decisions?order=up", 400, "order: got 'up', expected oldest or newest"),
        ("GET", "/events?limit=1001", 400, "limit: got '1001'"),
        ("GET", "/events?kind=label&kind=nonsense", 400, "kind: got 'nonsense', expected one of prediction, label"),
        ("PUT", "/versions", 405, "/versions has no PUT; expected GET, HEAD"),
        ("GET", "/rollback", 405, "/rollback has no GET; expected POST"),
        ("DELETE", "/challengers/zzz", 404, "there is no version 'zzz'"),
        ("DELETE", "/challengers/champion?reason=", 400, "reason: got '', expected 1 to 1000 letters"),
    ],
)
def test_refusals_say_what_was_wrong(open_desk, method, path, status, words):
    answer = open_desk.client.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert words in told["detail"]
    assert told["status"] == status
    if status == 405:
        assert answer.headers["allow"] == told["expected"]


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[]", 422, "the body"),
        (b"{}", 422, "the body"),
        (b'{"reason": 7}', 422, "reason"),
        (b'{"reason": ""}', 422, "reason"),
        (b'{"reason": "x", "more": 1}', 422, "the body"),
        (b'{"reason": "x", "without": {"first": -1}}', 422, "without.first"),
        (b'{"reason": "x", "without": {}}', 422, None),
        (b'{"reason": "x", "without": {"first": 9, "last": 3}}', 422, "without"),
        (b'{"reason": "x", "to": "zzz"}', 422, None),
        (b'{"reason": "' + b"x" * (1 << 20) + b'"}', 413, "the body"),
    ],
)
def test_bodies_that_cannot_be_used_name_the_field(open_desk, body, status, where):
    end = open_desk.parts.archive.end()
    answer = open_desk.client.post("/rollback", content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("where") == where
    assert open_desk.parts.archive.end() == end


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"family": "os:system"}, "may not be started here"),
        ({"family": "linear", "foo": 1}, "unknown field `foo`"),
        ({"family": "linear", "dense": 7}, "expected (1, 7)"),
        ({"family": ["linear"]}, "may not be started here"),
    ],
)
def test_a_challenger_that_cannot_be(open_desk, model, words):
    answer = ordered(open_desk, "POST", "/challengers", model=model, reason="try")
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


def test_json_that_is_nested_too_deeply(open_desk):
    body = b'{"reason": "x", "model": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    answer = open_desk.client.post("/challengers", content=body, headers=JSON)
    assert answer.status_code == 400
    assert "nested too deeply" in answer.json()["detail"]


WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([door.path for door in DOORS if door.method == "GET"]),
    WORDS.filter(bool),
    st.dictionaries(st.sampled_from(["after", "limit", "order", "kind", "x"]), WORDS, max_size=3),
)
def test_no_address_is_a_fault(open_desk, path, name, query):
    part = httpx.URL("http://x/", params={"p": name}).query.decode().removeprefix("p=")
    for hole in ("{id}", "{a}", "{b}", "{version}", "{name}", "{id:path}"):
        path = path.replace(hole, part)
    answer = open_desk.client.get(path, params=query)
    assert answer.status_code in (200, 400, 404), answer.text


# ---- orders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Setup]:
    """The set-up of a home of its own, for what changes it."""
    with set_up(tmp_path / "home", grown(tmp_path / "home", examples=700)) as made:
        yield made


def test_orders_are_carried_out_before_they_are_answered(own):
    with learning(own), desk(own) as opened:
        versions = opened.get("/versions").json()
        champion, first = versions["aliases"]["champion"], versions["versions"][0]["id"]
        assert champion != first
        promoted = ordered(opened, "POST", f"/versions/{first}/promote", reason="an old friend")
        assert promoted.status_code == 200, promoted.text
        told = promoted.json()
        assert told["folded"] is True
        assert told["aliases"]["champion"] == first == opened.get("/versions").json()["aliases"]["champion"]
        assert told["decision"]["reason"] == "an old friend"
        assert [one["action"] for one in told["followed"]] == ["promote"]
        back = ordered(opened, "POST", "/rollback", reason="a false friend").json()
        assert back["aliases"]["champion"] == champion
        started = ordered(opened, "POST", "/challengers", model={"family": "linear", "l2": 0.1}, reason="shrink").json()
        version = started["followed"][0]["version"]
        assert started["followed"][0]["action"] == "challenger"
        until(lambda: version in [one["version"] for one in opened.get("/challengers").json()["challengers"]])
        ended = opened.client.delete(f"/challengers/{version}", params={"reason": "enough"})
        assert ended.status_code == 200, ended.text
        assert [one["action"] for one in ended.json()["followed"]] == ["withdraw"]
        decisions = opened.get("/decisions?order=newest&limit=1").json()["decisions"]
        assert decisions[0]["seal"]


def test_an_order_that_cannot_be_carried_out_says_why(own):
    with learning(own), desk(own) as opened:
        champion = opened.get("/versions").json()["aliases"]["champion"]
        answer = opened.client.delete(f"/challengers/{champion}")
        assert answer.status_code == 409, answer.text
        assert "could not be carried out" in answer.json()["detail"]


def test_an_order_waits_for_a_learner_that_is_gone(own, monkeypatch):
    monkeypatch.setattr(commands, "PATIENCE", 0.1)
    with learning(own):
        pass  # so that there is a status
    with desk(own) as opened:
        first = opened.get("/versions").json()["versions"][0]["id"]
        answer = ordered(opened, "POST", f"/versions/{first}/promote", reason="when you are back")
        assert answer.status_code == 202
        assert answer.json()["folded"] is False
        assert answer.json()["aliases"]["champion"] != first
        with learning(own):
            until(lambda: opened.get("/versions").json()["aliases"]["champion"] == first)


def test_arrays_that_are_gone_cannot_be_promoted(own):
    with learning(own), desk(own) as opened:
        first = opened.get("/versions").json()["versions"][0]
        (Path(own.home) / "blobs" / f"{first['blob']}.safetensors").unlink()
        answer = ordered(opened, "POST", f"/versions/{first['id']}/promote", reason="gone")
        assert answer.status_code == 409
        assert "pruned" in answer.json()["detail"]


# ---- health ------------------------------------------------------------------------------------------------------


def test_health_is_that_of_the_learner(own):
    own = msgspec.structs.replace(own, spec=msgspec.structs.replace(own.spec, serve=ServeSpec(staleness=0.5)))
    with desk(own) as opened:
        assert "has not written its status yet" in opened.get("/readyz").json()["detail"]
        assert opened.get("/status").status_code == 503
        with learning(own):
            until(lambda: opened.get("/readyz").status_code == 200)
            assert opened.get("/readyz").json()["staleness"] < 0.5
        until(lambda: opened.get("/readyz").status_code == 503)
        reasons = opened.get("/readyz").json()["reasons"]
        assert "the bound is 0.5 s" in " ".join(reasons)
        until(lambda: "has not written its status for" in opened.get("/readyz").json()["detail"])
        with connect(str(Path(own.home) / "log.sqlite"), tidy=False) as log:
            log.append([Prediction("unseen", {"x": 0.0, "z": 0.0}, 1, (0.5, 0.5), "v")], time=time.time() - 30)
        until(lambda: opened.get("/status").json()["lag"]["events"] == 1)
        status = opened.get("/status").json()
        assert status["age"] > 1
        assert 30 <= status["lag"]["seconds"] < 90
        assert status["staleness"]["broken"]
        assert status["staleness"]["seconds"] > status["staleness"]["bound"] == 0.5
        assert "everlearn_lag_events 1.0" in opened.get("/metrics").text


def test_alerts_are_sent_by_the_desk(own):
    told: list[dict[str, object]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(msgspec.json.decode(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        serve = ServeSpec(webhook=f"http://127.0.0.1:{receiver.server_port}/hook", private=True)
        own = msgspec.structs.replace(own, spec=msgspec.structs.replace(own.spec, serve=serve))
        try:
            with learning(own), desk(own) as opened:
                assert ordered(opened, "POST", "/rollback", reason="to be told of").status_code == 200
                until(lambda: any("to be told of" in str(one) for one in told))
        finally:
            receiver.shutdown()
            thread.join()


def test_a_webhook_that_may_not_be_called_keeps_the_desk_from_starting(own):
    spec = msgspec.structs.replace(own.spec, serve=ServeSpec(webhook="ftp://example.com/"))
    done = subprocess.run(
        [sys.executable, "-m", "everlearn.app.admin"],
        env={**os.environ, **msgspec.structs.replace(own, spec=spec).environment()},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert "the desk cannot work" in done.stderr


# ---- who may -----------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(own) -> Iterator[tuple[Desk, dict[str, str]]]:
    secrets = {scope: tokens.create(own.tokens, f"my-{scope}", [scope]) for scope in ("predict", "read", "admin")}
    with learning(own), desk(own) as opened:
        yield opened, secrets


def test_every_door_asks_for_its_scope(guarded):
    opened, secrets = guarded
    for door in DOORS:
        path = door.path.replace("{id:path}", "p0").replace("{id}", "zzz").replace("{version}", "zzz")
        path = path.replace("{a}", "zzz").replace("{b}", "zzz").replace("{name}", "docs.js")

        def ask(secret: str = "", method: str = door.method, path: str = path) -> int:
            headers = JSON | ({"authorization": f"Bearer {secret}"} if secret else {})
            return opened.client.request(method, path, content=b"{}", headers=headers).status_code

        if door.scope is None:
            assert ask() in (200, 204, 401, 422), path
            continue
        assert ask() == ask("el_x_00") == 401, path
        assert ask(secrets["predict"]) == 403, path
        assert ask(secrets["admin"]) in (200, 404, 422), path
        assert (ask(secrets["read"]) == 403) == (door.scope == "admin"), path
    assert opened.client.get("/versions", headers={"host": "evil.example"}).status_code == 421


def test_a_page_logs_in_and_orders(guarded):
    opened, secrets = guarded
    assert opened.get("/session").status_code == 401
    assert ordered(opened, "POST", "/session", token="el_my_00").status_code == 401
    logged_in = ordered(opened, "POST", "/session", token=secrets["admin"])
    assert logged_in.status_code == 200
    assert "HttpOnly; SameSite=Strict" in logged_in.headers["set-cookie"]
    cookie, csrf = logged_in.headers["set-cookie"].partition(";")[0], logged_in.json()["csrf"]
    opened.client.cookies.clear()
    assert opened.get("/session", cookie=cookie).json()["csrf"] == csrf
    assert opened.get("/versions", cookie=cookie).status_code == 200
    body = b'{"reason": "from the page"}'
    headers = JSON | {"cookie": cookie}
    assert opened.client.post("/rollback", content=body, headers=headers).status_code == 403
    done = opened.client.post("/rollback", content=body, headers=headers | {"x-csrf-token": csrf})
    assert done.status_code == 200, done.text
    assert done.json()["decision"]["detail"]["token"] == "my-admin"
    assert opened.client.delete("/session", headers=headers).status_code == 204
    assert opened.get("/session", cookie=cookie).status_code == 401


# ---- the process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["signal", "abandoned"])
def test_the_process_answers_and_ends_as_it_should(setup, ending):
    child = subprocess.Popen(
        [sys.executable, "-m", "everlearn.app.admin"],
        env={**os.environ, **setup.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline().strip() == READY
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(setup.admin)), base_url="http://localhost") as client:
            assert client.get("/versions").status_code == 200
            assert setup.admin.stat().st_mode & 0o777 == 0o600
            if ending == "signal":
                child.send_signal(signal.SIGTERM)
            else:
                child.stdin.close()
            assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
