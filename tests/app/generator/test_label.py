"""Pairs for annotators over HTTP: made ahead, handed out once, judged on their sides, and undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.app.generator import label, pool
from everlearn.events import SqliteLog
from everlearn.records import Decision, Prediction, Preference
from everlearn.schema import question
from tests.support.generators import Generator, generating
from tests.support.preference_loops import settings
from tests.support.servers import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    folder = tmp_path_factory.mktemp("label")
    (folder / "prompts.jsonl").write_text('"hello *there*"\n{"prompt": [{"role": "user", "content": "how are you"}]}\n')
    with generating(folder / "home", settings(prompts=str(folder / "prompts.jsonl"))) as made:
        yield made


def pair_for(running: Generator, name: str) -> dict[str, Any]:
    reply = running.http.get("/label/next", params={"annotator": name})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def send(running: Generator, path: str, **body: Any) -> Any:
    reply = running.http.post(f"/label/{path}", json=body)
    assert reply.status_code in (200, 202), reply.text
    return reply.json()


def logged(running: Generator, id: str) -> Prediction:
    event = running.loop.log.find(f"prediction:{id}")
    assert event is not None
    assert isinstance(event.payload, Prediction)
    return event.payload


def test_a_pair_is_handed_to_one_annotator_and_stays_on_the_screen(running: Generator) -> None:
    first, again, other = (pair_for(running, name) for name in ("anna", "anna", "bert"))
    assert first["id"] == again["id"] != other["id"]
    given = logged(running, first["id"])
    asked = question.decode(given.payload)
    texts = [answer.text for answer in question.judged(asked)]
    left, right = texts[::-1] if asked.swapped else texts
    assert (first["left"], first["right"]) == (label.rendered(left), label.rendered(right))
    assert first["prompt"] in ("<p>hello <em>there</em></p>\n", "<p><strong>user:</strong> how are you</p>\n")
    assert (first["swapped"], first["arm"], first["version"]) == (asked.swapped, "random", given.version)
    assert first["why"].startswith("Chosen at random")
    assert sum(given.proba) == pytest.approx(1.0)


@pytest.mark.parametrize("side", ["left", "right", "tie"])
def test_a_verdict_is_logged_and_reaches_the_model(running: Generator, side: str) -> None:
    pair = pair_for(running, "carl")
    before = running.loop.ready().model.arrays["progress/counts"][0]
    reply = send(running, "judge", id=pair["id"], annotator="carl", verdict=side, seconds=2.5, why="kinder")
    (event,) = running.loop.log.about(pair["id"])[1:]
    given = event.payload
    assert isinstance(given, Preference)
    assert (given.source, given.seconds, given.why) == ("people/carl", 2.5, "kinder")
    expected = {"left": int(pair["swapped"]), "right": int(not pair["swapped"]), "tie": -1}[side]
    assert (given.chosen, given.verdict) == (expected, "tie" if side == "tie" else "choice")
    proba = logged(running, pair["id"]).proba
    assert reply["agreed"] == (None if side == "tie" or proba[0] == proba[1] else proba[1 - expected] > 0.5)
    while running.loop.catch_up():
        pass
    assert running.loop.ready().model.arrays["progress/counts"][0] == before + 1
    assert pair_for(running, "carl")["id"] != pair["id"]


def test_a_skipped_pair_goes_to_another_annotator(running: Generator) -> None:
    pair = pair_for(running, "dora")
    reply = send(running, "judge", id=pair["id"], annotator="dora", verdict="skip")
    assert (reply["progress"]["judged"], reply["progress"]["skipped"]) == (0, 1)
    seen = []
    for _ in range(8):
        one = pair_for(running, "emil")["id"]
        seen.append(one)
        send(running, "judge", id=one, annotator="emil", verdict="left")
    assert pair["id"] in seen
    assert pair_for(running, "dora")["id"] not in seen
    assert len(set(seen)) == 8


def test_the_last_judgement_is_corrected(running: Generator) -> None:
    pair = pair_for(running, "fritz")
    send(running, "judge", id=pair["id"], annotator="fritz", verdict="left")
    other = pair_for(running, "fritz")
    undone = send(running, "undo", annotator="fritz")
    assert (undone["pair"]["id"], undone["pair"]["again"], undone["position"]) == (pair["id"], True, None)
    assert undone["progress"]["judged"] == 0
    assert pair_for(running, "fritz")["id"] == pair["id"] != other["id"]
    send(running, "judge", id=pair["id"], annotator="fritz", verdict="right")
    judged = [one.payload for one in running.loop.log.about(pair["id"]) if isinstance(one.payload, Preference)]
    assert [one.chosen for one in judged] == [int(pair["swapped"]), int(not pair["swapped"])]
    assert send(running, "undo", annotator="fritz")["pair"]["id"] == pair["id"]
    nothing = running.http.post("/label/undo", json={"annotator": "fritz"})
    assert nothing.status_code == 409


def test_everything_of_an_annotator_is_undone(running: Generator) -> None:
    for _ in range(3):
        send(running, "judge", id=pair_for(running, "gina")["id"], annotator="gina", verdict="left")
    assert label.remembered(running.loop.log)["gina"].progress("gina").judged == 3
    undone = send(running, "undo", annotator="gina", what="everything")
    assert (undone["pair"], undone["progress"]["judged"]) == (None, 0)
    order = running.loop.log.read(undone["position"] - 1, 1)[0].payload
    assert isinstance(order, Decision)
    assert order.detail["without"] == {"source": "people/gina"}
    assert "gina" not in label.remembered(running.loop.log)
    while running.loop.catch_up():
        pass
    assert running.loop.decisions()[-1].action == "rollback"


def test_undoing_everything_leaves_the_pair_on_the_screen_as_it_is(running: Generator) -> None:
    first = pair_for(running, "hugo")["id"]
    send(running, "judge", id=first, annotator="hugo", verdict="left")
    send(running, "undo", annotator="hugo")
    assert send(running, "undo", annotator="hugo", what="everything")["progress"]["judged"] == 0
    pair = pair_for(running, "hugo")  # not given to others: hugo was here a moment ago
    assert (pair["id"], pair["again"]) == (first, True)
    running.loop.catch_up()


def test_pairs_of_an_old_policy_are_replaced(running: Generator) -> None:
    known = {event.payload.id for event in running.events() if isinstance(event.payload, Prediction)}
    rounds = running.loop.ready().model.arrays["progress/counts"][2]
    while running.loop.ready().model.arrays["progress/counts"][2] < rounds + pool.STALE:
        running.loop.judge(running.loop.ask("hello").id, 0)
    end = running.loop.log.end()
    running.publish()
    until(lambda: len(running.loop.log.read(end)) >= pool.AHEAD)
    pair = pair_for(running, "hans")
    assert pair["id"] not in known
    assert logged(running, pair["id"]).position == running.publisher.position


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/label/next", None, 400),
        ("GET", "/label/next?annotator=a/b", None, 400),
        ("POST", "/label/judge", {"id": "nowhere", "annotator": "anna", "verdict": "left"}, 404),
        ("POST", "/label/judge", {"id": "x", "annotator": "anna", "verdict": "both"}, 422),
        ("POST", "/label/undo", {"annotator": "nobody-yet"}, 409),
        ("GET", "/label/nothing", None, 404),
    ],
)
def test_refusals_are_problems(running: Generator, method: str, path: str, body: Any, status: int) -> None:
    reply = running.http.request(method, path, json=body)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")


def test_the_work_of_annotators_is_remembered(running: Generator) -> None:
    """The log alone gives the counts that the page shows, as after a restart."""
    log = SqliteLog(Path(running.setup.home) / "log.sqlite", tidy=False)
    found = label.remembered(log)
    log.close()
    for name in ("carl", "emil", "dora"):
        shown = pair_for(running, name)["progress"]
        kept = found[name].progress(name)
        assert (shown["judged"], shown["skipped"], shown["agreement"]) == (kept.judged, kept.skipped, kept.agreement)


def test_agreement_with_others_counts_pairs_that_both_chose_in() -> None:
    one, other, third = (label.Annotator() for _ in range(3))
    for id, mine, theirs in (("a", 0, 0), ("b", 1, 0), ("c", 1, None), ("d", 0, 0)):
        one.note(id, "choice", None, 0.0, mine)
        other.note(id, "tie" if theirs is None else "choice", None, 0.0, theirs)
    found = one.progress("one", [other, third])
    assert (found.shared, found.with_others) == (3, 2 / 3)
    one.forget("b")
    assert one.progress("one", [other]).with_others == 1.0
    assert one.progress("one", [third]).with_others is None


def test_the_next_pair_is_handed_out_ahead(running: Generator) -> None:
    pair = pair_for(running, "ahead")

    def after(id: str) -> str:
        reply = running.http.get("/label/next", params={"annotator": "ahead", "after": id})
        assert reply.status_code == 200
        return str(reply.json()["id"])

    following = after(pair["id"])
    assert following == after(pair["id"]) != pair["id"] == pair_for(running, "ahead")["id"]
    assert pair_for(running, "other")["id"] not in {pair["id"], following}
    send(running, "judge", id=pair["id"], annotator="ahead", verdict="left")
    assert pair_for(running, "ahead")["id"] == following == after(pair["id"])
    assert send(running, "undo", annotator="ahead")["pair"]["id"] == pair["id"]
    assert after(pair["id"]) == following
    send(running, "judge", id=pair["id"], annotator="ahead", verdict="tie")
    assert pair_for(running, "ahead")["id"] == following


def test_both_versions_answer_the_prompt(running: Generator) -> None:
    pair = pair_for(running, "both")
    found = running.http.get("/label/answers", params={"id": pair["id"]}).json()
    assert (found["id"], found["version"]) == (pair["id"], pair["version"])
    assert isinstance(found["first"], list)
    again = running.http.get("/label/answers", params={"id": pair["id"]}).json()
    assert again == found
    assert running.http.get("/label/answers", params={"id": "nowhere"}).status_code == 404
    assert running.http.get("/label/answers").status_code == 400


def test_no_prompts_no_pairs(tmp_path: Path) -> None:
    with generating(tmp_path / "home", settings()) as bare:
        reply = bare.http.get("/label/next", params={"annotator": "anna"})
        assert reply.status_code == 503
        assert "set `prompts` in everlearn.toml" in reply.json()["detail"]
