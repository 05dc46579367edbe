"""The hot path: what is answered, what is in the log by then, and who is harmed by whose mistakes (nobody)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn import config, model, schema
from everlearn.app import auth
from everlearn.app.auth import Access
from everlearn.app.counters import Tally, read
from everlearn.app.process import Setup
from everlearn.app.worker import application, body_reader, predict
from everlearn.app.worker.application import Worker
from everlearn.app.worker.predict import draw
from everlearn.events import SqliteLog, row
from everlearn.families import explain
from everlearn.families.linear.model import Linear
from everlearn.learn import limits
from everlearn.records import Batch, Event, Example, Label, Prediction, Reward, Singles
from everlearn.serve import snapshot
from everlearn.serve.snapshot import Answering, Publisher, Reader
from everlearn.spec import MOST_BYTES, MOST_ROWS, Spec

FIELDS = {"a": "numeric", "b": "numeric", "town": "categorical"}
BINARY: dict[str, Any] = {"schema": {"label": "y", "task": "binary", "classes": ["no", "yes"], "fields": FIELDS}}
RECORD = {"a": 0.5, "b": -1.25, "town": "Delft"}
SENT = {"host": "localhost", "content-type": "application/json"}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class Site:
    """A worker on a real log and a real snapshot, without a socket."""

    def __init__(self, home: Path, spec: Mapping[str, Any] = BINARY, build: Any = model.build) -> None:
        self.home, self.spec = home, config.convert(dict(spec))
        self.setup = Setup(spec=self.spec, home=str(home), serving=str(snapshot.folder(home)))
        self.encoder = schema.Encoder(self.spec.schema)
        self.publisher = Publisher(Path(self.setup.serving))
        self.log = SqliteLog(home / "log.sqlite")
        self.tally = Tally(self.setup.tally(0))
        self.model = trained(self.spec)
        self.publish()
        reader = Reader(Path(self.setup.serving), build, patience=0.0)
        self.worker = Worker(self.setup, self.log, reader, Access(self.setup), self.tally, lambda: None)

    def publish(self, name: str = "v1", canary: model.Model | None = None, position: int = 7, **extra: Any) -> None:
        second = Answering("v2", canary) if canary is not None else None
        self.publisher.publish(Answering(name, self.model), second, position, extra)
        self.publisher.fresh(time.monotonic())
        time.sleep(predict.KEPT)

    def run(self, act: Callable[[Site], Awaitable[Any]]) -> Any:
        """Do something while the worker is alive."""

        async def main() -> Any:
            ends = asyncio.Event()
            told = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
            said: list[str] = []

            async def receive() -> dict[str, Any]:
                if said:
                    await ends.wait()
                return next(told)

            async def send(message: Any) -> None:
                said.append(message["type"])

            living = asyncio.create_task(self.worker({"type": "lifespan"}, receive, send))
            while not said:
                await asyncio.sleep(0)
            try:
                return await act(self)
            finally:
                ends.set()
                await living
                assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

        return asyncio.run(main())

    async def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] = SENT,
        parts: int = 1,
    ) -> Reply:
        """One request, its body in so many parts."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        step = -(-len(content) // parts) or 1
        pieces = [content[start : start + step] for start in range(0, len(content), step)] or [b""]
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50_000),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                return {"type": "http.disconnect"}
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.worker(scope, receive, send)
        start, *rest = sent
        head = {name.decode(): value.decode() for name, value in start["headers"]}
        reply = Reply(start["status"], head, b"".join(one["body"] for one in rest))
        assert int(head["content-length"]) == len(reply.content)
        assert start["status"] == 200 or head["content-type"] == "application/problem+json"
        return reply

    def once(self, path: str, body: Any = None, **more: Any) -> Reply:
        reply: Reply = self.run(lambda site: site.ask(path, body, **more))
        return reply

    def together(self, *asked: tuple[str, Any]) -> list[Reply]:
        """Several requests at once, so that they are one group."""

        async def act(site: Site) -> list[Reply]:
            return await asyncio.gather(*(site.ask(path, body) for path, body in asked))

        replies: list[Reply] = self.run(act)
        return replies

    def events(self) -> list[Event]:
        return self.log.read(limit=10_000)

    def predictions(self) -> list[Prediction]:
        return [event.payload for event in self.events() if isinstance(event.payload, Prediction)]

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = read(self.setup.tally(0))["counts"]
        return counts

    def close(self) -> None:
        self.log.close()
        self.tally.close()
        self.publisher.close()


def trained(spec: Spec, seed: int = 0) -> model.Model:
    """A model of a spec that has learned something; which, depends on the seed."""
    made = model.build({"family": "linear"}, schema.shape(spec.schema))
    draw = np.random.default_rng(seed)
    encoder = schema.Encoder(spec.schema)
    rows = [{"a": float(x), "b": float(y), "town": "Delft"} for x, y in draw.normal(size=(200, 2))]
    y = np.array([row["a"] > 0.0 for row in rows], np.float64)
    made.learn(encoder.records(rows)[0], y, np.ones(200, np.float32))
    return made


@pytest.fixture
def start(tmp_path: Path):
    """Make sites; they are closed at the end."""
    made: list[Site] = []

    def start(spec: Mapping[str, Any] = BINARY, **more: Any) -> Site:
        home = tmp_path / f"home-{len(made)}"
        home.mkdir()
        made.append(Site(home, spec, **more))
        return made[-1]

    yield start
    for site in made:
        site.close()


def with_serve(**changes: Any) -> dict[str, Any]:
    return {**BINARY, "serve": changes}


# ---- answers ------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_models_and_in_the_log_as_it_was_given(start):
    site = start()
    said = site.once("/predict", {"features": {**RECORD, "nobody asked": [1, 2]}}).json()
    proba = site.model.predict(site.encoder.record(RECORD))[0].tolist()
    (event,) = site.events()
    assert event.payload == Prediction(said["id"], RECORD, said["value"], tuple(proba), "v1", 7)
    assert {name: said[name] for name in ("value", "proba", "version", "position")} == {
        "value": ["no", "yes"][int(np.argmax(proba))],
        "proba": proba,
        "version": "v1",
        "position": 7,
    }
    assert 0.0 <= said["staleness"] < 60.0


def test_several_records_are_answered_in_order(start):
    site = start()
    records = [{**RECORD, "a": float(a)} for a in range(40)]
    reply = site.once("/predict", {"instances": records, "ids": [None, "mine"] + [None] * 38}).json()
    expected = site.model.predict(site.encoder.records(records)[0])
    assert [one["proba"] for one in reply["predictions"]] == expected.tolist()
    assert [one["id"] for one in reply["predictions"]] == [one.id for one in site.predictions()]
    assert [one.features for one in site.predictions()] == records
    assert reply["predictions"][1]["id"] == "mine"
    assert len({one.id for one in site.predictions()}) == 40


def test_a_number_is_answered_with_a_number(start):
    site = start({"schema": {"label": "y", "task": "regression", "fields": FIELDS}})
    said = site.once("/predict", {"features": RECORD}).json()
    assert said["value"] == float(site.model.predict(site.encoder.record(RECORD))[0, 0])
    assert said["proba"] == []


def test_what_comes_together_is_predicted_and_written_as_one(start):
    site = start()
    asked = [("/predict", {"features": {**RECORD, "a": a / 7}}) for a in range(30)]
    asked += [("/learn", {"features": RECORD, "label": "yes"})]
    replies = site.together(*asked)
    assert [reply.status for reply in replies] == [200] * 31
    assert (site.counts["commits"], site.counts["commit_rows"]) == (1, 31)
    assert (site.counts["predict_2xx"], site.counts["learn_2xx"]) == (30, 1)
    alone = [site.model.predict(site.encoder.record(body["features"]))[0].tolist() for _, body in asked[:30]]
    assert [reply.json()["proba"] for reply in replies[:30]] == alone  # bit for bit


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
LIKELY = st.dictionaries(st.sampled_from(["a", "b", "town", "other"]), JSON, max_size=4)


@settings(max_examples=60, deadline=None)
@given(records=st.lists(LIKELY, min_size=1, max_size=5))
def test_whatever_is_answered_is_in_the_log_as_it_would_be_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    with closing(Site(tmp_path_factory.mktemp("home"))) as site:
        replies = site.together(*(("/predict", {"features": record}) for record in records))
        for record, reply in zip(records, replies, strict=True):
            usable = not site.encoder.records([json.loads(json.dumps(record))])[1]
            assert reply.status == (200 if usable else 422)
        for event in site.events():
            assert site.log.find(f"prediction:{event.payload.id}") == event
            kept = site.log._rows("SELECT time, kind, key, payload FROM events WHERE position = ?", (event.position,))
            assert kept == [row(event.payload, event.time)]
            again = site.model.predict(site.encoder.record(event.payload.features))
            assert event.payload.proba == tuple(again[0].tolist())


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(["/predict", "/feedback", "/learn"]), body=st.binary(max_size=30) | JSON, deep=st.booleans()
)
def test_no_body_is_a_fault_of_the_server(
    tmp_path_factory: pytest.TempPathFactory, path: str, body: Any, deep: bool
) -> None:
    with closing(Site(tmp_path_factory.mktemp("home"))) as site:
        content = b"[" * 100_000 if deep else body
        assert site.once(path, content).status in (400, 422)
        assert site.events() == []


def test_a_version_published_meanwhile_answers_from_the_next_group_on(start):
    site = start()
    first = site.once("/predict", {"features": RECORD}).json()
    site.model = trained(site.spec, seed=1)
    site.publish("v9", position=90)
    second = site.once("/predict", {"features": RECORD}).json()
    assert (first["version"], second["version"], second["position"]) == ("v1", "v9", 90)
    assert second["proba"] == site.model.predict(site.encoder.record(RECORD))[0].tolist() != first["proba"]


def test_it_answers_on_when_nothing_is_published_any_more_and_says_how_stale_it_is(start):
    site = start()
    site.publisher.fresh(time.monotonic() - 100.0)
    assert 100.0 <= site.once("/predict", {"features": RECORD}).json()["staleness"] < 130.0
    assert 100.0 <= site.once("/healthz", method="GET").json()["staleness"] < 130.0


def test_what_is_used_a_moment_longer_does_not_pass_for_newer(start, monkeypatch):
    site = start()
    monkeypatch.setattr(predict, "KEPT", 3600.0)
    taken = site.once("/predict", {"features": RECORD}).json()
    site.publisher.publish(Answering("v9", site.model), None, 90, {})
    site.publisher.fresh(time.monotonic() + 60.0)
    kept = site.once("/predict", {"features": RECORD}).json()
    assert (taken["version"], kept["version"]) == ("v1", "v1")
    assert taken["staleness"] < kept["staleness"]


def test_without_anything_to_serve_it_says_so_and_takes_labels(tmp_path):
    with closing(Site(tmp_path)) as site:
        (Path(site.setup.serving) / snapshot.CURRENT).unlink()
        reply = site.once("/predict", {"features": RECORD})
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert site.once("/healthz", method="GET").status == 503
        assert site.once("/learn", {"features": RECORD, "label": "no"}).status == 200


def test_features_are_clipped_to_the_ranges_that_were_learned(start):
    site = start({**BINARY, "limits": {"clip": 0.01}})
    low, high = np.array([-1.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32)
    site.publish(low=low, high=high)
    far = {**RECORD, "a": 1e6}
    clipped = limits.clip({"low": low, "high": high}, site.spec.limits, site.encoder.record(far))
    assert site.once("/predict", {"features": far}).json()["proba"] == site.model.predict(clipped)[0].tolist()
    assert site.predictions()[0].features == far


def test_contributions_are_told_where_they_are_asked_for(start):
    site = start()
    expected = explain.contributions(site.model, site.encoder, RECORD)
    assert site.once("/predict?explain=1", {"features": RECORD}).json()["contributions"] == expected
    many = site.once("/predict?explain=true", {"instances": [RECORD]}).json()
    assert many["predictions"][0]["contributions"] == expected
    assert "contributions" not in site.once("/predict?explain=0", {"features": RECORD}).json()


def test_what_explains_is_loaded_before_anyone_asks(start, monkeypatch):
    site, explained = start(), []
    monkeypatch.setattr(predict.explain, "contributions", lambda *asked: explained.append(asked) or {})
    site.worker.warm()
    assert len(explained) == 1
    monkeypatch.undo()
    monkeypatch.setattr(predict.explain, "FAMILIES", {})
    site.worker.warm()  # a family that does not say why answers all the same
    assert site.events() == []


def test_the_subject_is_kept_in_one_spelling(start):
    site = start({**BINARY, "subject": "user"})
    for user in ("7", 7, 7.0, None):
        site.once("/predict", {"features": {**RECORD, "user": user}})
        site.once("/learn", {"features": {**RECORD, "user": user}, "label": "no"})
    assert [event.payload.subject for event in site.events()] == ["7"] * 6 + [""] * 2
    assert all("user" not in event.payload.features for event in site.events())
    assert site.once("/predict", {"features": {**RECORD, "user": [1]}}).status == 422


def test_the_id_decides_whether_the_candidate_answers(start):
    site = start(with_serve(canary=0.25))
    other = trained(site.spec, seed=1)
    site.publish(canary=other)
    reply = site.once("/predict", {"instances": [{**RECORD, "a": i / 400} for i in range(400)]}).json()
    given_by = {one["id"]: one["version"] for one in reply["predictions"]}
    assert given_by == {id: "v2" if draw(id) < 0.25 else "v1" for id in given_by}
    assert 60 <= list(given_by.values()).count("v2") <= 140  # 100 expected, standard deviation 8.7
    for one in site.predictions():
        answering = other if one.canary else site.model
        assert one.canary == (one.version == "v2")
        assert one.propensity == (0.25 if one.canary else 0.75)
        assert one.proba == tuple(answering.predict(site.encoder.record(one.features))[0].tolist())


# ---- keys ---------------------------------------------------------------------------------------------------------


def test_a_record_sent_again_under_its_key_gets_its_first_answer(start):
    site = start()
    first = site.once("/predict", {"features": RECORD, "id": "order-1"}).json()
    site.model = trained(site.spec, seed=1)
    site.publish("v9", position=90)
    again = site.once("/predict", {"features": dict(reversed(RECORD.items())), "id": "order-1"}).json()
    assert {**again, "staleness": 0} == {**first, "staleness": 0}
    reply = site.once("/predict", {"instances": [RECORD, {**RECORD, "a": 2}], "ids": ["order-1", "order-2"]}).json()
    assert [one["version"] for one in reply["predictions"]] == ["v1", "v9"]
    assert [one.id for one in site.predictions()] == ["order-1", "order-2"]


def test_a_key_names_one_record(start):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "order-1"})
    for body in (
        {"features": {**RECORD, "a": 9}, "id": "order-1"},
        {"instances": [RECORD, {**RECORD, "a": 9}], "ids": ["order-2", "order-1"]},
    ):
        reply = site.once("/predict", body)
        assert reply.status == 409
        assert "Delft" not in reply.content.decode()  # what is stored is not told to whoever knows its id
    assert len(site.events()) == 1


def test_one_key_for_two_records_at_once_is_given_to_one(start):
    site = start()
    neighbour, *claims = site.together(
        ("/predict", {"features": RECORD}),
        *(("/predict", {"features": {**RECORD, "a": a}, "id": "k"}) for a in (1, 2, 1)),
    )
    assert neighbour.status == 200
    assert [reply.status for reply in claims] == [200, 409, 200]
    assert claims[0].json()["proba"] == claims[2].json()["proba"]
    assert len(site.events()) == 2


@pytest.mark.parametrize("id", ["", "x" * 201, 7])
def test_a_key_is_text_of_some_length(start, id):
    for path, body in (("/predict", {"features": RECORD}), ("/learn", {"features": RECORD, "label": "no"})):
        assert start().once(path, {**body, "id": id}).status == 422


# ---- feedback and examples ----------------------------------------------------------------------------------------


def test_feedback_is_taken_once_and_corrections_are_kept(start):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    assert site.once("/feedback", {"id": "p", "label": "yes"}).json() == {"accepted": 1, "known": 0}
    assert site.once("/feedback", {"id": "p", "label": "yes"}).json() == {"accepted": 1, "known": 1}
    body = {
        "feedback": [{"id": "p", "label": "no", "weight": 0.5, "source": "desk"}] * 2 + [{"id": "p", "label": "yes"}]
    }
    assert site.once("/feedback", body).json() == {"accepted": 3, "known": 2}
    told = [event.payload for event in site.events()[1:]]
    assert told == [Label("p", "yes"), Label("p", "no", 0.5, "desk")]


def test_of_equal_judgements_at_once_one_is_new(start, monkeypatch):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    with closing(SqliteLog(site.log.path)) as other:
        put = site.log.try_put

        def late(rows: Any) -> Any:
            other.append([Label("p", "yes")])  # another worker was faster, by a moment
            return put(rows)

        monkeypatch.setattr(site.log, "try_put", late)
        replies = site.together(*(("/feedback", {"id": "p", "label": label}) for label in ("yes", "no", "no")))
    assert [reply.json()["known"] for reply in replies] == [1, 0, 1]


def test_an_id_for_two_examples_of_one_request_is_given_to_the_first(start):
    site = start()
    rows = [{"features": RECORD, "label": label, "id": id} for label, id in (("yes", "e"), ("no", "e"), ("no", "f"))]
    reply = site.once("/learn", {"examples": [*rows, rows[0]]}).json()
    assert (reply["accepted"], reply["ids"]) == (3, ["e", "f", "e"])
    assert reply["errors"] == [{"index": 1, "detail": "the id 'e' names another example of this request"}]
    assert [event.payload.id for event in site.events()] == ["e", "f"]


def test_a_conflict_at_the_last_moment_does_not_show_what_the_log_holds(start, monkeypatch):
    site = start()
    with closing(SqliteLog(site.log.path)) as other:
        other.append([Example("e", {"town": "secret"}, "yes")])
    monkeypatch.setattr(site.log, "find", lambda key: None)  # as long as this worker does not see it
    reply = site.once("/learn", {"features": RECORD, "label": "no", "id": "e"})
    assert reply.status == 409
    assert "secret" not in reply.content.decode()


def test_a_regression_learns_from_rewards(start):
    site = start({"schema": {"label": "y", "task": "regression", "fields": FIELDS}})
    site.once("/predict", {"features": RECORD, "id": "p"})
    assert site.once("/feedback", {"id": "p", "reward": 2.5}).status == 200
    assert site.events()[-1].payload == Reward("p", 2.5)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"id": "nobody", "label": "yes"}, 404, "no prediction with id 'nobody'"),
        ({"id": "p", "label": "maybe"}, 422, "got the label 'maybe', expected one of 'no', 'yes'"),
        ({"id": "p"}, 422, "exactly one of label, reward and chosen; got 0"),
        ({"id": "p", "label": "yes", "chosen": 0}, 422, "got 2 of them"),
        ({"id": "p", "label": None}, 422, "got 0 of them"),
        ({"id": "p", "reward": 1.0}, 422, "send a label"),
        ({"id": "p", "chosen": 0}, 422, "send a label"),
        ({"id": "p", "label": "yes", "weight": -1}, 422, "weight: got -1"),
        ({"id": "p", "label": "yes", "weight": 1e31}, 422, "weight: got 1e+31"),
        ({"id": "p", "labels": "yes"}, 422, "unknown field"),
        ({"label": "yes"}, 422, "missing required field `id`"),
        ({"feedback": []}, 422, "length >= 1"),
        ({"feedback": [{"id": "p", "label": "yes"}], "id": "p"}, 422, "unknown field"),
        ({"id": "p", "label": "yes", "source": "x" * 201}, 422, "length <= 200"),
        (b'{"id": "p", "label": NaN}', 400, "not JSON"),
        (b'{"id": "p", "label": "yes", "weight": 1e999}', 422, "out of range"),
        (b"", 400, "not JSON"),
    ],
)
def test_feedback_that_cannot_be_used_is_refused_in_words(start, body, status, said):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    reply = site.once("/feedback", body)
    assert reply.status == status
    assert said in reply.json()["detail"]
    assert len(site.events()) == 1


def test_of_several_judgements_the_good_ones_are_taken(start):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    rows = [{"id": "nobody", "label": "no"}, {"id": "p", "label": "yes"}, {"id": 3}, {"id": "p", "label": "maybe"}]
    reply = site.once("/feedback", {"feedback": rows}).json()
    assert (reply["accepted"], [one["index"] for one in reply["errors"]]) == (1, [0, 2, 3])
    assert "'nobody'" in reply["errors"][0]["detail"]
    assert site.events()[-1].payload == Label("p", "yes")
    assert site.once("/feedback", {"feedback": [rows[0], rows[2]]}).status == 404


def test_early_feedback_is_taken_where_it_may_come(start):
    site = start({**BINARY, "feedback": {"early": 60.0}})
    assert site.once("/feedback", {"id": "soon", "label": "yes"}).json() == {"accepted": 1, "known": 0}
    assert site.once("/feedback", {"id": "soon", "label": "maybe"}).status == 422


def test_examples_are_taken_once_under_their_key(start):
    site = start()
    one = {"features": RECORD, "label": "yes", "weight": 2.0, "id": "e1", "source": "shop"}
    assert site.once("/learn", one).json() == {"accepted": 1, "ids": ["e1"]}
    assert site.once("/learn", one).json() == {"accepted": 1, "ids": ["e1"]}
    assert site.once("/learn", {**one, "label": "no"}).status == 409
    assert [event.payload for event in site.events()] == [Example("e1", RECORD, "yes", 2.0, "shop")]
    rows = [{**one, "label": "no"}, {"features": {"a": "x"}, "label": "no"}, {"features": RECORD, "label": "no"}]
    reply = site.once("/learn", {"examples": rows}).json()
    assert (reply["accepted"], len(reply["ids"]), [e["index"] for e in reply["errors"]]) == (1, 1, [0, 1])
    assert reply["errors"][1]["detail"] == "field 'a': got 'x', expected a number"


# ---- neighbours ---------------------------------------------------------------------------------------------------


class Picky(Linear):
    """A model that does not survive one kind of row."""

    def predict(self, batch: Batch) -> Singles:
        if (batch.dense[:, 0] == 13.0).any():
            raise FloatingPointError("thirteen")
        if (batch.dense[:, 0] == 14.0).any():
            return np.full((len(batch), 2), np.nan, np.float32)
        return super().predict(batch)


def picky(spec: Mapping[str, Any]) -> Picky:
    made = model.build(spec)
    made.__class__ = Picky
    return made  # type: ignore[return-value]


def test_one_requests_failure_is_its_own(start):
    site = start(build=picky)
    site.once("/predict", {"features": RECORD, "id": "known"})
    asked = [
        (200, "/predict", {"features": RECORD}),
        (422, "/predict", {"features": {"a": "x"}}),
        (500, "/predict", {"features": {"a": 13}}),
        (500, "/predict", {"instances": [RECORD, {"a": 14}]}),
        (409, "/predict", {"features": {"a": 1}, "id": "known"}),
        (200, "/feedback", {"id": "known", "label": "yes"}),
        (404, "/feedback", {"id": "unknown", "label": "yes"}),
        (400, "/predict", b"{"),
        (200, "/predict", {"instances": [RECORD, RECORD]}),
        (200, "/learn", {"features": RECORD, "label": "no"}),
    ]
    replies = site.together(*((path, body) for _, path, body in asked))
    assert [reply.status for reply in replies] == [status for status, _, _ in asked]
    assert "thirteen" not in replies[2].content.decode()  # what is ours to mend stays in our log
    assert len(site.events()) == 6


def test_a_full_disk_is_told_and_what_was_acknowledged_stays(start, monkeypatch):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "kept"})
    site.log._writer.execute("PRAGMA max_page_count = 14")  # SQLite's own way of having no space
    long = {**RECORD, "town": "x" * 60_000}
    for reply in site.together(("/predict", {"features": long}), ("/feedback", {"id": "kept", "label": "no"})):
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert [event.payload.id for event in site.events()] == ["kept"]
    assert site.once("/predict", {"features": RECORD, "id": "kept"}).status == 200  # which writes nothing
    assert site.once("/healthz", method="GET").status == 503
    monkeypatch.setattr(application, "UNWELL", 0.0)
    assert site.once("/healthz", method="GET").status == 200
    monkeypatch.undo()
    site.log._writer.execute("PRAGMA max_page_count = 1000000")
    assert site.once("/predict", {"features": long}).status == 200
    assert site.once("/healthz", method="GET").status == 200


def test_while_another_process_writes_what_waits_is_bounded_and_nothing_is_lost(start, monkeypatch):
    monkeypatch.setattr(application, "WAITING", 5)
    site = start()
    other = sqlite3.connect(site.log.path, isolation_level=None)

    async def act(site: Site) -> list[Reply]:
        other.execute("BEGIN IMMEDIATE")
        asking = [asyncio.create_task(site.ask("/predict", {"features": {**RECORD, "a": a}})) for a in range(8)]
        await asyncio.sleep(0.05)
        assert [task.done() for task in asking] == [False] * 5 + [True] * 3
        other.execute("ROLLBACK")
        return await asyncio.gather(*asking)

    replies = site.run(act)
    assert [reply.status for reply in replies] == [200] * 5 + [503] * 3
    assert replies[-1].headers["retry-after"] == "1"
    assert [one.features["a"] for one in site.predictions()] == list(range(5))
    assert site.counts["full"] == 3
    other.close()


# ---- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 7])
def test_a_body_has_its_bound(start, parts):
    site = start()
    fits = json.dumps({"features": RECORD}).encode().ljust(MOST_BYTES)
    assert site.once("/predict", fits, parts=parts).status == 200
    reply = site.once("/predict", fits + b" ", parts=parts)
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert f"at most {MOST_BYTES} bytes" in reply.json()["detail"]


def test_bodies_on_their_way_have_a_bound_together(start, monkeypatch):
    monkeypatch.setattr(body_reader, "HELD", 100)
    site = start()
    body = json.dumps({"features": RECORD}).encode().ljust(500)
    assert site.once("/predict", body, parts=5).status == 503
    assert site.once("/predict", body).status == 200  # what comes in one piece need not be held


def test_a_body_has_its_time(start, monkeypatch):
    monkeypatch.setattr(body_reader, "SLOWEST", 0.05)
    site, sent = start(), []

    async def act(site: Site) -> None:
        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        for path in ("/predict", "/orders"):
            scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "client": None}
            scope |= {
                "headers": [(name.encode(), text.encode()) for name, text in SENT.items()],
                "raw_path": path.encode(),
            }
            await site.worker(scope, receive, send)

    site.run(act)
    assert [message["status"] for message in sent[::2]] == [408, 408]


def test_a_connection_that_breaks_off_is_no_request(start):
    site = start()

    async def act(site: Site) -> None:
        whole = json.dumps({"features": RECORD}).encode()
        messages = [{"type": "http.request", "body": whole, "more_body": True}, {"type": "http.disconnect"}]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "client": None}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in SENT.items()]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            assert message.get("status", 400) == 400

        await site.worker(scope, receive, send)

    site.run(act)
    assert site.events() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"instances": [RECORD] * (MOST_ROWS + 1)}),
        ("/feedback", {"feedback": [{"id": "p", "label": "yes"}] * (MOST_ROWS + 1)}),
        ("/learn", {"examples": [{"features": RECORD, "label": "yes"}] * (MOST_ROWS + 1)}),
    ],
)
def test_a_request_has_so_many_rows(start, path, body):
    site = start()
    reply = site.once(path, body)
    assert reply.status == 413
    assert f"got {MOST_ROWS + 1} rows in one request, expected at most {MOST_ROWS}" in reply.json()["detail"]
    assert site.events() == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, 'expected "features" (one record) or "instances"'),
        ({"features": RECORD, "instances": [RECORD]}, "features beside instances"),
        ({"features": RECORD, "ids": ["a"]}, "features beside instances or ids"),
        ({"instances": [RECORD], "id": "a"}, "a list of as many ids"),
        ({"instances": [RECORD], "ids": ["a", "b"]}, "got 2 keys, expected 1"),
        ({"instances": [RECORD, RECORD], "ids": ["a", "a"]}, "got 'a' twice"),
        ({"instances": []}, "length >= 1"),
        ({"instances": [RECORD, {"a": "x"}]}, "row 1: field 'a': got 'x', expected a number"),
        ({"feature": RECORD}, "unknown field"),
        ({"features": [1.0]}, "expected `object`, got `array`"),
        ([RECORD], "expected `object`, got `array`"),
    ],
)
def test_a_question_is_put_in_one_way(start, body, said):
    reply = start().once("/predict", body)
    assert reply.status == 422
    assert said in reply.json()["detail"]


def test_the_hot_paths_take_posts(start):
    reply = start().once("/predict", method="GET")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    reply = start().once("/healthz")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_tokens_are_asked_for_and_name_the_source(start, monkeypatch):
    site = start()
    secret = auth.create(site.setup.tokens, "shop", ["predict", "feedback"], 1)
    weak = auth.create(site.setup.tokens, "reader", ["read"], 1)
    site.worker = Worker(
        site.setup,
        site.log,
        Reader(Path(site.setup.serving), model.build),
        Access(site.setup),
        site.tally,
        lambda: None,
    )
    assert site.once("/predict", {"features": RECORD}).status == 401
    assert (
        site.once("/predict", {"features": RECORD}, headers={**SENT, "authorization": f"Bearer {weak}"}).status == 403
    )
    good = {**SENT, "authorization": f"Bearer {secret}"}
    assert site.once("/predict", {"features": RECORD, "id": "p"}, headers=good).status == 200
    for own in ("", "anna"):
        site.once("/feedback", {"id": "p", "label": "yes", "source": own}, headers=good)
    assert [event.payload.source for event in site.events()[1:]] == ["shop", "shop/anna"]


def test_one_caller_may_send_so_many_a_second(start):
    site = start(with_serve(rate=2.0))
    replies = site.together(*[("/predict", {"features": RECORD})] * 5)
    assert sorted(reply.status for reply in replies) == [200, 200, 429, 429, 429]
    assert site.counts["limited"] == 3


# ---- the process --------------------------------------------------------------------------------------------------


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    url: str


@pytest.fixture
def running(start):
    """The worker as a process of its own."""
    site = start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        setup = msgspec.structs.replace(site.setup, descriptor=listener.fileno(), index=1)
        process = subprocess.Popen(
            [sys.executable, "-m", "everlearn.app.worker"],
            env={**os.environ, **setup.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield site, Running(process, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            if not process.stdin.closed:
                process.stdin.close()


def test_a_worker_ends_when_it_is_asked_to_and_finishes_what_it_began(running):
    site, server = running
    with closing(sqlite3.connect(site.log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # so that a request is under way for as long as we like
        replies: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{server.url}/predict", json={"features": RECORD}, timeout=30))
        )
        asking.start()
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        other.execute("ROLLBACK")
        asking.join()
    assert server.process.wait(10) == 0
    assert replies[0].status_code == 200
    assert [one.id for one in site.predictions()] == [replies[0].json()["id"]]


def raw(url: str, *sent: bytes) -> list[bytes]:
    """Send on one connection; return what each reading then gets, until the server closes or half a second is quiet."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(0.5)
        for part in sent:
            connection.sendall(part)
        got: list[bytes] = []
        with suppress(TimeoutError):
            while part := connection.recv(1 << 20):
                got.append(part)
        return got


def posted(body: bytes, length: int = 0) -> bytes:
    head = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
    return f"{head}{length or len(body)}\r\n\r\n".encode() + body


def test_a_reply_leaves_in_one_piece_and_requests_may_follow_one_another(running):
    _, server = running
    body = json.dumps({"features": RECORD}).encode()
    (reply,) = raw(server.url, posted(body))
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"}")
    assert b"".join(raw(server.url, posted(body) * 3)).count(b"HTTP/1.1 200 OK\r\n") == 3
    assert b"".join(raw(server.url, posted(body)[:-5], posted(body)[-5:])).startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_comes_in_parts_is_answered_as_what_comes_whole(running):
    """The long and the short way of `everlearn.app.worker.fast_path`."""
    site, server = running
    asked = [
        {"features": RECORD},
        {"features": RECORD, "id": "k"},
        {"instances": [RECORD] * 2},
        {"features": {"a": "x"}},
        [1],
    ]
    ends = b"\r\nconnection: close\r\n\r\n"
    for sent in [posted(json.dumps(body).encode()) for body in asked] + [
        posted(b"{"),
        posted(b"{}").replace(b"localhost", b"x"),
    ]:
        request = sent.replace(b"\r\n\r\n", ends)
        told = []
        for parts in ([request], [request[:-1], request[-1:]]):
            head, _, body = b"".join(raw(server.url, *parts)).partition(b"\r\n\r\n")
            headers = [line for line in head.split(b"\r\n") if not line.startswith((b"date", b"content-length"))]
            said = json.loads(re.sub(rb'"(id|staleness)":[^,}]*', rb'"\1":0', body))
            told.append((sorted(headers), said))
        assert told[0] == told[1]
    counts = read(site.setup.tally(1))["counts"]
    assert (counts["predict_2xx"], counts["predict_4xx"]) == (6, 8)


def test_what_is_refused_for_good_is_told_before_the_connection_ends(running):
    _, server = running
    reply = b"".join(raw(server.url, posted(b"x" * 1_200_000, length=2_000_000)))
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert reply.endswith(b"}")
    (reply,) = raw(server.url, b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"\r\n\r\n")


def test_a_worker_ends_with_its_supervisor(running):
    _, server = running
    assert httpx.get(f"{server.url}/healthz").json()["status"] == "ok"
    server.process.stdin.close()
    assert server.process.wait(10) == 0


def test_what_is_not_hot_is_the_desks_and_a_desk_that_is_down_is_said_to_be(running):
    _, server = running
    reply = httpx.get(f"{server.url}/versions")
    assert (reply.status_code, reply.headers["content-type"]) == (502, "application/problem+json")
    assert "not running at the moment" in reply.json()["detail"]
