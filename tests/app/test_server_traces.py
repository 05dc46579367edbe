"""A model with a trace behind a server: answers log it, late labels bring it back, a replay makes the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.loop.loop import Loop
from everlearn.records import Label, Prediction
from everlearn.spec import DriftSpec, Schema, ServeSpec, Spec
from tests.support.servers import catch_up, content, events_of, record, replay, spec
from tests.support.traced_models import STALE

ROWS = 60


def test_late_labels_bring_back_what_was_answered_over_http(tmp_path: Path) -> None:
    settings = spec(mode="live", model=STALE, drift=DriftSpec(detector="none"), serve=ServeSpec(port=0))
    home = tmp_path / "home"
    with Server(settings, home) as server, Client(server.url) as client:
        answers = []
        for begin in range(0, ROWS, 20):  # the labels of a stretch come after the answers of the next one
            asked = range(begin, begin + 20)
            answers += client.predict_many([record(row)[0] for row in asked], [str(row) for row in asked])
            if begin:
                client.feedback_many([Label(str(row - 20), record(row - 20)[1]) for row in asked])
            catch_up(server)
        client.feedback_many([Label(str(row), record(row)[1]) for row in range(ROWS - 20, ROWS)])
        catch_up(server)
    logged = {one.payload.id: one.payload for one in events_of(home) if isinstance(one.payload, Prediction)}
    assert len(logged) == ROWS
    for answer in answers:
        assert np.frombuffer(logged[answer.id].trace, "<f4").tolist() == [np.float32(answer.proba[1])]
    assert len({answer.proba[1] for answer in answers}) > 5  # many are 0 or 1; it has learned between the answers
    with Loop(settings, home) as loop:
        learned = content(loop)
    assert learned == replay(home, settings, tmp_path / "replay")


def test_forecasts_have_their_interval_over_http_and_in_the_log(tmp_path: Path) -> None:
    schema = Schema(label="y", task="regression", fields={"at": "datetime"})
    settings = Spec(schema=schema, mode="live", model={"family": "forecast"}, serve=ServeSpec(port=0))
    home, hours = tmp_path / "home", [f"2026-01-{1 + hour // 24:02}T{hour % 24:02}:00" for hour in range(240)]
    with Loop(settings, home) as loop:
        for hour, moment in enumerate(hours[:200]):
            loop.learn({"at": moment}, 10.0 + hour % 24 + 0.1 * (hour % 7))
    with Server(settings, home) as server, Client(server.url) as client:
        catch_up(server)
        one = client.predict({"at": hours[200]}, "one")
        many = client.predict_many([{"at": hours[210]}, {"at": hours[220]}], ["two", "three"])
        again = client.predict({"at": hours[200]}, "one")
    logged = {one.payload.id: one.payload for one in events_of(home) if isinstance(one.payload, Prediction)}
    for given in (one, *many, again):
        forecast, *bounds, _ = np.frombuffer(logged[given.id].trace, "<f4").tolist()
        assert given.value == forecast
        assert given.interval == tuple(logged[given.id].payload["interval"]) == tuple(bounds)
        assert bounds[0] < forecast < bounds[1]
    with Loop(settings, home) as loop:
        frame = loop.predict_many({"at": hours[230:233]})
        assert all(
            low < value < high for low, value, high in zip(*(frame[n] for n in ("low", "value", "high")), strict=True)
        )
