"""Bad feedback over HTTP: refused in words where it cannot be used, bounded in its damage where it can."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import everlearn as el
from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.records import Example, Label
from everlearn.spec import MOST_BYTES, MOST_ROWS, GateSpec, LimitsSpec, ServeSpec, Spec
from tests.support.servers import catch_up, spec

LIMITS = LimitsSpec(clip=0.01, weight=10.0, source=0.2, window=200, quarantine=0.98)


def settings(**changes: Any) -> Spec:
    return spec(**({"mode": "live", "serve": ServeSpec(port=0)} | changes))


def record(row: int) -> tuple[dict[str, Any], int]:
    """A row of a stream whose rule stays, and its label."""
    draw = np.random.default_rng((6, row))
    a, b, noise = draw.normal(size=3).tolist()
    return {"a": a, "b": b, "c": f"c{int(draw.integers(5))}"}, int(a + 0.5 * b + 0.2 * noise > 0)


def judged(client: Client, rows: range, flipped: float = 0.0, source: str = "", weight: float = 1.0) -> None:
    """Ask about rows, and tell what is true; of a share of them the contrary, as one source, at a weight."""
    for start in range(rows.start, rows.stop, 50):
        some = range(start, min(start + 50, rows.stop))
        client.predict_many([record(row)[0] for row in some], [f"p{row}" for row in some])
        bad = {row for row in some if row % 100 < 100 * flipped}
        labels = [
            Label(f"p{row}", 1 - record(row)[1], weight, source)
            if row in bad
            else Label(f"p{row}", record(row)[1], 1.0, f"user-{row % 7}")
            for row in some
        ]
        assert client.feedback_many(labels).accepted == len(labels)


def right(client: Client, rows: range) -> float:
    """The share of rows that are answered rightly."""
    answers = client.predict_many([record(row)[0] for row in rows])
    return float(np.mean([one.value == record(row)[1] for one, row in zip(answers, rows, strict=True)]))


def check_finite(home: Path, held: Spec) -> None:
    with el.open(held, home=home) as loop:
        arrays, _ = loop.fold.state()
        models = [one.model.arrays for one in loop.fold.roster.contestants]
        for name, array in [*arrays.items(), *(item for one in models for item in one.items())]:
            if array.dtype.kind == "f" and not name.startswith("learner/limits/"):  # which begin at infinity
                assert np.isfinite(array[~np.isnan(array)]).all(), name
        for one in models:
            assert all(np.isfinite(array).all() for array in one.values() if array.dtype.kind == "f")


BAD = [
    ("/feedback", '{"id": "p0", "label": NaN}', {400}),
    ("/feedback", '{"id": "p0", "label": Infinity}', {400}),
    ("/feedback", '{"id": "p0", "label": 1e308}', {422}),
    ("/feedback", '{"id": "p0", "label": 1e999}', {400, 422}),
    ("/feedback", '{"id": "p0", "label": 7}', {422}),
    ("/feedback", '{"id": "p0", "label": "fraud"}', {422}),
    ("/feedback", '{"id": "p0", "label": null}', {422}),
    ("/feedback", '{"id": "p0", "label": [1]}', {422}),
    ("/feedback", '{"id": "p0", "label": {"a": 1}}', {422}),
    ("/feedback", '{"id": "p0", "label": 1, "weight": NaN}', {400}),
    ("/feedback", '{"id": "p0", "label": 1, "weight": -1}', {422}),
    ("/feedback", '{"id": "p0", "label": 1, "weight": 1e31}', {422}),
    ("/feedback", '{"id": "p0", "label": 1, "weight": "heavy"}', {422}),
    ("/feedback", '{"id": "p0", "label": 1, "reward": 1.0}', {422}),
    ("/feedback", '{"id": "p0", "reward": 1e308}', {422}),
    ("/feedback", '{"id": "p0", "chosen": 0}', {422}),
    ("/feedback", '{"id": 7, "label": 1}', {422}),
    ("/feedback", '{"id": "", "label": 1}', {422}),
    ("/feedback", '{"id": "p0", "label": 1, "source": 5}', {422}),
    ("/feedback", '{"id": "nobody", "label": 1}', {404}),
    ("/feedback", '{"feedback": []}', {422}),
    ("/feedback", '{"feedback": 1}', {422}),
    ("/feedback", "[" * 100_000, {400, 422}),
    ("/feedback", '{"feedback":' + "[" * 100_000 + "]" * 100_000 + "}", {400, 422}),
    ("/feedback", '{"id": "p0", "label": ' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}", {400, 422}),
    ("/feedback", "", {400, 422}),
    ("/feedback", "7", {422}),
    ("/learn", '{"features": {"a": NaN}, "label": 1}', {400}),
    ("/learn", '{"features": {"a": 1e308}, "label": 1}', {422}),
    ("/learn", '{"features": {"a": "much"}, "label": 1}', {422}),
    ("/learn", '{"features": {"a": [1, 2]}, "label": 1}', {422}),
    ("/learn", '{"features": {"a": 1}, "label": "x"}', {422}),
    ("/learn", '{"features": {"a": 1}}', {422}),
    ("/learn", '{"features": [1, 2], "label": 1}', {422}),
    ("/learn", '{"features": ' + '{"a":' * 50_000 + "1" + "}" * 50_000 + ', "label": 1}', {400, 422}),
    ("/predict", '{"features": {"c": ' + "[" * 50_000 + "]" * 50_000 + "}}", {400, 422}),
    ("/predict", '{"features": {"a": -Infinity}}', {400}),
]


@contextmanager
def asked_meanwhile(server: Server) -> Iterator[list[int]]:
    """Somebody else goes on asking; the statuses of the answers are yielded."""
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60.0) as client:
            while not over.is_set():
                statuses.append(client.post("/predict", json={"features": {"a": 1.0, "b": 1.0}}).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        over.set()
        thread.join()


def test_what_cannot_be_used_is_refused_in_words_and_changes_nothing(tmp_path):
    held = settings(feedback=el.spec.FeedbackSpec(), limits=LimitsSpec())
    with Server(held, tmp_path / "home") as server, server.client() as client:
        judged(client, range(300))
        catch_up(server)
        before = client.status()
        same = client.predict(record(1)[0]).proba
        headers = {"content-type": "application/json"}
        with (
            asked_meanwhile(server) as statuses,
            httpx.Client(base_url=server.url, timeout=60.0, headers=headers) as raw,
        ):
            for path, body, expected in BAD:
                reply = raw.post(path, content=body)
                assert reply.status_code in expected, (path, body[:100], reply.text)
                assert reply.headers["content-type"] == "application/problem+json"
                assert reply.json()["detail"]
                assert len(reply.content) < 5000
            huge = json.dumps({"feedback": [{"id": "p0", "label": 1}] * (MOST_ROWS + 1)})
            assert raw.post("/feedback", content=huge).status_code == 413
            assert raw.post("/feedback", content=b" " * (MOST_BYTES + 1)).status_code == 413
        assert set(statuses) == {200}
        catch_up(server)
        after = client.status()
        for name in ("examples", "metrics", "contestants", "aliases"):
            assert after[name] == before[name]
        assert client.predict(record(1)[0]).proba == same
    check_finite(tmp_path / "home", held)


@pytest.mark.parametrize(
    "limits", [pytest.param(LimitsSpec(), marks=pytest.mark.slow), LIMITS], ids=["plain", "bounded"]
)
def test_numbers_as_large_as_they_come_leave_weights_finite(tmp_path, limits):
    held = settings(limits=limits)
    with Server(held, tmp_path / "home") as server, server.client() as client:
        judged(client, range(500))
        for number, size in enumerate((3.4e38, -3.4e38, 1e30, 5e-324)):
            example = Example(f"e{number}", {"a": size, "b": -size, "c": "x" * 10_000}, number % 2, 1e30, "key")
            assert client.learn_many([example]).accepted == 1
            id = client.predict({"a": size, "b": size, "c": str(size)}).id
            assert client.feedback(id, label=number % 2, weight=1e30, source="key").accepted == 1
        judged(client, range(500, 1500))
        catch_up(server)
        assert right(client, range(5000, 5500)) > (0.9 if limits is LIMITS else 0.5)
    check_finite(tmp_path / "home", held)


@pytest.mark.slow
def test_a_flood_of_labels_from_one_key_moves_as_much_as_one_source_may(tmp_path):
    held = settings(limits=LIMITS)
    flood = [Example(f"flood-{row}", record(row)[0], 1 - record(row)[1], 1e30, "key-17") for row in range(20_000)]
    with Server(held, tmp_path / "home") as server, server.client() as client:
        judged(client, range(1500))
        with asked_meanwhile(server) as statuses:
            for start in range(0, len(flood), 500):
                assert client.learn_many(flood[start : start + 500]).accepted == 500
            judged(client, range(1500, 3000))
            catch_up(server)
        assert set(statuses) == {200}
        assert client.status()["refused"] > 19_000
        assert right(client, range(5000, 5500)) > 0.9
    check_finite(tmp_path / "home", held)


@pytest.mark.slow
def test_flips_of_thirty_percent_from_one_source_do_little_where_it_is_bounded(tmp_path):
    shares = {}
    for name, limits in (("plain", LimitsSpec()), ("bounded", LIMITS)):
        held, home = settings(limits=limits, gate=GateSpec(minimum=10_000)), tmp_path / name
        with Server(held, home) as server, server.client() as client:
            judged(client, range(1000))
            judged(client, range(1000, 3000), flipped=0.3, source="key-17", weight=100.0)
            catch_up(server)
            shares[name] = right(client, range(5000, 5500))
    assert shares["bounded"] > 0.9 > 0.6 > shares["plain"]


@pytest.mark.slow
def test_flips_that_outweigh_the_others_are_left_out_by_a_rollback(tmp_path):
    """Unbounded weights let three labels of ten outweigh the others, in learning and in the evidence alike.

    So the guard cannot help; a person can, who leaves out the key.
    """
    held = settings(limits=LimitsSpec())
    with Server(held, tmp_path / "home") as server, server.client() as client:
        judged(client, range(1500))
        catch_up(server)
        judged(client, range(1500, 4500), flipped=0.3, source="key-17", weight=100.0)
        catch_up(server)
        assert right(client, range(4600, 5000)) < 0.8
        undone = client.rollback("one key told the contrary", without={"source": "key-17"})
        assert undone.followed[-1].detail["left_out"] >= 900
        assert right(client, range(5000, 5500)) > 0.9
    check_finite(tmp_path / "home", held)
