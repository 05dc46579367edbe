"""A model with a trace behind a server: answers log it, late labels bring it back, a replay makes the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.loop.loop import Loop
from everlearn.records import Label, Prediction
from everlearn.spec import DriftSpec, ServeSpec
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
