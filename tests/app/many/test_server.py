"""A server of many loops: the routes of a single loop below /loops/NAME, with the same records and errors."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from everlearn.app.auth import create
from everlearn.app.many import routes
from everlearn.app.process import Pool
from everlearn.app.supervisor import Server
from everlearn.client import Client, RequestRefused
from everlearn.client.loop_records import LoopPage
from everlearn.errors import ConfigError, InputError, InUse
from everlearn.serve import snapshot
from everlearn.spec import ServeSpec
from tests.support import ROOT
from tests.support.browser import Page, chromium, in_chromium
from tests.support.loop_folders import POOL, folder_of, served, template
from tests.support.servers import PATIENCE, check_learned, events_of, record, until

__all__ = ["chromium"]

SETTINGS = template()
ONE = msgspec.structs.replace(POOL, processes=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(folder_of(tmp_path_factory.mktemp("loops"), SETTINGS), ONE) as running:
        yield running


def of(server: Server, name: str) -> Client:
    return Client(f"{server.url}/loops/{name}")


def listed(server: Server, **query: Any) -> LoopPage:
    return msgspec.json.decode(httpx.get(f"{server.url}/loops", params=query).content, type=LoopPage)


def learned(client: Client, rows: range) -> None:
    for row in rows:
        features, label = record(row)
        answer = client.predict(features, id=f"p{row}")
        client.feedback(answer.id, label=label)
    until(lambda: client.status()["position"] == client.status()["end"])


@pytest.mark.slow
def test_each_loop_learns_its_own_traffic(server: Server) -> None:
    with of(server, "own-a") as a, of(server, "own-b") as b:
        learned(a, range(30))
        learned(b, range(10))
        assert (a.status()["counts"]["label"], b.status()["counts"]["label"]) == (30, 10)
        assert httpx.get(f"{server.url}/loops/own-a/events/p20").status_code == 200
        assert httpx.get(f"{server.url}/loops/own-b/events/p20").status_code == 404
        assert a.predict(record(0)[0], id="p0").version == b.predict(record(0)[0], id="p0").version  # both untrained
        assert [one.id for one in a.versions()] == [one.id for one in b.versions()]


@pytest.mark.slow
def test_the_routes_of_one_loop_are_all_there(server: Server) -> None:
    with of(server, "all-routes") as client:
        learned(client, range(5))
        assert client.learn(record(99)[0], 1)
        champion = client.versions()[0]
        assert client.name(champion.id, "first").folded
        assert [one.action for one in client.decisions()][:1] == ["start"]
        challenged = client.challenge({"family": "linear"}, "to try").followed[0]
        assert client.withdraw(challenged.version, "tried")
        base = f"{server.url}/loops/all-routes"
        for path in ("challengers", "events", "events/p1", "openapi.json", "readyz", "metrics", "docs", "session", ""):
            assert httpx.get(f"{base}/{path}").status_code == 200, path
        assert "everlearn_log_end_position" in httpx.get(f"{base}/metrics").text
        missing = httpx.get(f"{base}/versions/none").json()
        assert (missing["status"], missing["instance"]) == (404, "/loops/all-routes/versions/none")
        assert httpx.get(f"{base}/label").status_code == 404
        assert httpx.put(f"{base}/pause").status_code == 405


@pytest.mark.slow
def test_errors_are_those_of_a_single_loop(server: Server) -> None:
    with of(server, "errors") as client:
        with pytest.raises(InputError, match="field 'a'"):
            client.predict({"a": "x"})
        base = f"{server.url}/loops/errors"
        wrong = httpx.post(f"{base}/predict", content=b"{", headers={"content-type": "application/json"})
        assert (wrong.status_code, wrong.json()["instance"]) == (400, "/loops/errors/predict")
        assert httpx.get(f"{base}/predict").status_code == 405
        parts = httpx.post(f"{base}/predict", content=iter([b'{"features"', b":{}}"]), headers=_JSON)
        assert parts.status_code == 200  # in parts, beside the fast path


_JSON = {"content-type": "application/json"}


@pytest.mark.slow
def test_a_name_that_cannot_be_is_refused(server: Server) -> None:
    for name in ("-x", "x" * 49, "a.b"):
        reply = httpx.post(f"{server.url}/loops/{name}/predict", json={"features": {}})
        assert (reply.status_code, reply.json()["where"]) == (422, "loop")
        assert httpx.get(f"{server.url}/loops/{name}").status_code == 404
        assert httpx.get(f"{server.url}/loops/{name}/versions").status_code == 404
    assert httpx.post(f"{server.url}/loops/%00/predict", json={"features": {}}).status_code == 422


@pytest.mark.slow
def test_loops_are_created_listed_searched_and_paged(server: Server) -> None:
    for number in range(5):
        reply = httpx.post(f"{server.url}/loops/listed-{number}", json={})
        assert (reply.status_code, reply.json()["resident"]) == (201, True)
    assert httpx.post(f"{server.url}/loops/listed-0", json={}).status_code == 200
    first = listed(server, search="listed", limit=2)
    assert ([one.name for one in first.loops], first.total, first.next) == (["listed-0", "listed-1"], 5, "listed-1")
    rest = listed(server, search="LISTED", after=first.next)
    assert ([one.name for one in rest.loops], rest.next) == (["listed-2", "listed-3", "listed-4"], None)
    assert httpx.get(f"{server.url}/loops", params={"limit": 0}).status_code == 400
    one = httpx.get(f"{server.url}/loops/listed-3").json()
    assert (one["name"], one["resident"], one["metric"]) == ("listed-3", True, "accuracy")


@pytest.mark.slow
def test_the_whole_server_has_metrics_and_health(server: Server) -> None:
    with of(server, "counted") as client:
        client.predict({})
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("learner-0", "worker-0", "admin"):
        assert f'everlearn_process_up{{process="{name}"}} 1.0' in text
    assert 'everlearn_requests_total{route="predict",status="2xx"}' in text
    assert "everlearn_loops_resident" in text
    assert httpx.get(f"{server.url}/healthz").json()["status"] == "ok"
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)


@pytest.mark.slow
def test_an_evicted_loop_answers_again_with_what_it_had_learned(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "loops", SETTINGS)
    with served(root, msgspec.structs.replace(ONE, memory=1_500_000)) as server:
        with of(server, "first") as client:
            learned(client, range(40))
            before = client.predict(record(50)[0], id="before")
        for number in range(8):  # the memory has room for a few
            with of(server, f"other-{number}") as other:
                other.predict({})
        until(lambda: not httpx.get(f"{server.url}/loops/first").json()["resident"])
        entry = httpx.get(f"{server.url}/loops/first").json()
        assert entry["position"] > 80
        assert entry["value"] is not None
        with of(server, "first") as client:
            after = client.predict(record(50)[0], id="after")
            assert (after.proba, after.version) == (before.proba, before.version)
            client.feedback("before", label=1)  # from before the eviction
    assert not (snapshot.folder(root) / "loops").exists()
    check_learned(root / "first.home", SETTINGS, tmp_path / "again")


@pytest.mark.slow
def test_a_loop_has_so_many_requests_a_second_and_others_are_not_affected(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "loops", SETTINGS)
    with served(root, msgspec.structs.replace(ONE, rate=0.001)) as server:
        replies = [httpx.post(f"{server.url}/loops/loud/predict", json={"features": {}}) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200, 429, 429, 429]
        assert all(int(reply.headers["retry-after"]) > 1 for reply in replies[1:])
        assert "requests to the loop loud" in replies[1].json()["detail"]
        with of(server, "calm") as calm:
            calm.predict({})


@pytest.mark.slow
def test_without_creation_an_unknown_loop_is_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "loops", SETTINGS)
    with served(root, msgspec.structs.replace(ONE, create=False)) as server:
        reply = httpx.post(f"{server.url}/loops/new/predict", json={"features": {}})
        assert (reply.status_code, reply.json()["detail"]) == (
            404,
            "there is no loop 'new'; GET /loops lists them, POST /loops/NAME creates one",
        )
        assert httpx.post(f"{server.url}/loops/new", json={}).status_code == 201
        assert httpx.post(f"{server.url}/loops/new/predict", json={"features": {}}).status_code == 200
        assert not (root / "other.home").exists()
        with pytest.raises(InUse, match="open in another process"):
            served(root)


@pytest.mark.slow
def test_tokens_of_the_folder_hold_for_all_loops(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "loops", SETTINGS)
    secret = create(root / "tokens.json", "reader", ["read"], 1)
    admin = create(root / "tokens.json", "boss", ["admin"], 1)
    with served(root, ONE) as server:
        for path in ("loops", "metrics", "loops/a/versions", "loops/a"):
            assert httpx.get(f"{server.url}/{path}").status_code == 401
        assert httpx.get(f"{server.url}/").status_code == 200  # the page, which then asks for a token
        bearer = {"authorization": f"Bearer {secret}"}
        assert httpx.get(f"{server.url}/loops", headers=bearer).status_code == 200
        assert httpx.post(f"{server.url}/loops/a", json={}, headers=bearer).status_code == 403
        assert httpx.post(f"{server.url}/loops/a/predict", json={"features": {}}, headers=bearer).status_code == 403
        boss = {"authorization": f"Bearer {admin}"}
        assert httpx.post(f"{server.url}/loops/a", json={}, headers=boss).status_code == 201
        assert httpx.get(f"{server.url}/loops/a/versions", headers=bearer).status_code == 200
        with Client(f"{server.url}/loops/a", token=admin) as client:
            answer = client.predict(record(1)[0])
            client.feedback(answer.id, label=1)
        with Client(f"{server.url}/loops/a", token=secret) as reading, pytest.raises(RequestRefused):
            reading.feedback(answer.id, label=0)
    assert [event.payload.source for event in events_of(root / "a.home") if hasattr(event.payload, "source")] == [
        "boss"
    ]


def test_every_route_of_the_folder_is_described() -> None:
    page = (ROOT / "docs/reference/many.md").read_text(encoding="utf-8")
    for route in routes.MANY_ROUTES:
        assert f"`{route.method} {route.path}`" in page, route.path
        for parameter in route.parameters:
            assert f"`{parameter.name}`" in page, (route.path, parameter.name)


@in_chromium
@pytest.mark.slow
def test_the_page_lists_searches_and_links_to_the_numbers_of_a_loop(chromium: Any, server: Server) -> None:
    for number in range(120):
        httpx.post(f"{server.url}/loops/page-{number:03}", json={}, timeout=PATIENCE)
    with of(server, "page-007") as client:
        learned(client, range(20))
    page = Page(chromium, server.url)
    for width in (1280, 360):
        page.emulate(width, 900)
        page.open()
        page.until(lambda: len(page.run("return [...document.querySelectorAll('tbody tr')]")) == 100)
        wide = page.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1]
    page.find("#more").click()
    page.until(lambda: len(page.run("return [...document.querySelectorAll('tbody tr')]")) > 100)
    page.find("#search").send_keys("page-00")
    page.until(lambda: len(page.run("return [...document.querySelectorAll('tbody tr')]")) == 10)
    assert "10 loops with this name" in page.text("#counts")
    page.find("tr[data-loop='page-007'] a").click()
    page.until(lambda: page.run("return document.querySelector('h1') !== null && !document.querySelector('.bone')"))
    assert page.run("return location.pathname") == "/loops/page-007/"
    page.until(lambda: "connected" in page.text("#link-text"))
    assert page.errors() == []


@in_chromium
@pytest.mark.slow
def test_the_page_of_an_empty_folder_says_what_to_do_and_a_phone_shows_all_of_a_loop(
    chromium: Any, tmp_path: Path
) -> None:
    with served(folder_of(tmp_path / "loops", SETTINGS), ONE) as server:
        page = Page(chromium, server.url)
        page.emulate(360, 700)
        page.open()
        page.until(lambda: "no loop yet" in page.text(".empty:not([hidden]) h2"))
        command = page.text(".empty pre")
        assert command == f"curl {server.url}/loops/NAME -H 'Content-Type: application/json' -d '{{}}'"
        name = "x" * 48
        subprocess.run(shlex.split(command.replace("NAME", name)), check=True, capture_output=True)
        page.until(lambda: name in page.text("tbody:not([hidden] *)"))
        assert page.run("return document.querySelector('.empty').hidden")
        edges = page.run(
            "return [...document.querySelectorAll('tbody td')].map((one) => one.getBoundingClientRect().right)"
        )
        assert len(edges) == 4
        assert max(edges) <= 360
        assert page.run("const one = document.querySelector('.scroll'); return one.scrollWidth <= one.clientWidth")
        assert page.errors() == []


@pytest.mark.slow
def test_serving_addresses_is_that_of_the_template(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "loops", template(serve=ServeSpec(host="0.0.0.0", port=0)))
    with pytest.raises(ConfigError, match="other machines can reach this server, and there is no token"):
        served(root, Pool(processes=1, memory=1 << 30), template(serve=ServeSpec(host="0.0.0.0", port=0)))
