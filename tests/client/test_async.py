"""Retries, in both forms of the client."""

from __future__ import annotations

import time

import pytest

from everlearn.app.problems import Refused
from everlearn.client import Client, RequestRefused, Unreachable
from tests.support.stage import ANSWER, call, closed_port, quickly, stage

__all__ = ["call", "quickly", "stage"]


def test_the_token_is_not_shown():
    with Client(token="el_a_0123456789abcdef") as client:
        assert "0123456789abcdef" not in repr(client)


@pytest.mark.parametrize(
    "stumble",
    ["drop", Refused(503, "", "starting"), Refused(502, "", "no admin"), Refused(429, "", "too fast")],
    ids=str,
)
def test_a_prediction_sent_again_is_the_same_prediction(stage, call, stumble):
    stage.replies(stumble, stumble, ANSWER)
    assert call("predict", {"x": 1}).id == "a"
    assert len({one.body["id"] for one in stage.received}) == 1
    assert len(stage.received) == 3


@pytest.mark.parametrize("method", ["predict_many", "learn", "feedback"])
def test_whatever_has_an_id_is_sent_again_with_the_same_body(stage, call, method):
    good = {
        "predict_many": b'{"predictions": [], "position": 0, "staleness": null}',
        "learn": b'{"accepted": 1, "ids": ["a"]}',
        "feedback": b'{"accepted": 1, "known": 0}',
    }
    arguments = {"predict_many": ([{"x": 1}],), "learn": ({"x": 1}, 1), "feedback": ("a", 1)}
    stage.replies("drop", good[method])
    call(method, *arguments[method])
    assert stage.received[0].body == stage.received[1].body


@pytest.mark.parametrize("stumble", ["drop", Refused(503, "", "busy"), Refused(502, "", "no admin")], ids=str)
@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_command_is_never_sent_twice(stage, call, command, stumble):
    stage.replies(stumble)
    with pytest.raises((Unreachable, RequestRefused)):
        call(command, "v1")
    assert len(stage.received) == 1


def test_a_server_that_stays_away_is_given_up(stage, call):
    stage.replies(Refused(503, "", "starting"))
    with pytest.raises(RequestRefused, match="starting"):
        call("status")
    assert len(stage.received) == 5


def test_nothing_listens():
    with closed_port() as url, Client(url, retries=1) as client, pytest.raises(Unreachable, match="everlearn serve"):
        client.predict({"x": 1})


def test_a_command_waits_for_a_server_that_is_starting(stage):
    """The server cannot have received it, so it may be sent again."""
    with closed_port() as url, Client(url, retries=2) as client:
        began = time.perf_counter()
        with pytest.raises(Unreachable):
            client.promote("v1")
        assert time.perf_counter() - began < 5
    assert stage.received == []


def test_an_answer_that_takes_too_long_is_unreachable(stage):
    stage.replies("sleep")
    with Client(stage.url, timeout=0.05, retries=0) as client, pytest.raises(Unreachable, match="no answer"):
        client.predict({"x": 1})
