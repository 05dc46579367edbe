"""What clients of both forms send, what they make of replies, and which errors they raise."""

from __future__ import annotations

import logging
import math

import msgspec
import numpy as np
import pytest

from everlearn import errors
from everlearn.app.problems import Refused
from everlearn.client import Health, RequestRefused, RowError
from everlearn.records import Example, Label, Preference, Reward
from tests.support.stage import ANSWER, call, quickly, stage

__all__ = ["call", "quickly", "stage"]


def test_a_prediction(stage, call):
    stage.replies(ANSWER)
    answer = call("predict", {"x": np.float32(0.5), "v": np.arange(2), "n": np.int64(3)}, explain=True)
    assert (answer.id, answer.value, answer.proba, answer.version) == ("a", True, (0.25, 0.75), "v1")
    assert (answer.position, answer.staleness) == (7, 0.5)
    (request,) = stage.received
    assert request.path == "/predict?explain=1"
    assert request.body["features"] == {"x": 0.5, "v": [0, 1], "n": 3}
    assert request.headers["authorization"] == "Bearer el_a_0123456789abcdef"
    assert request.headers["content-type"] == "application/json"


def test_several_predictions_share_position_and_staleness(stage, call):
    stage.replies(
        b'{"predictions": [{"id": "a", "value": 1.5, "proba": [], "version": "v"}], "position": 3, "staleness": null}'
    )
    (answer,) = call("predict_many", [{"x": 1}], ["mine"])
    assert (answer.value, answer.position, answer.staleness) == (1.5, 3, math.inf)
    assert stage.received[0].body == {"instances": [{"x": 1}], "ids": ["mine"]}


def test_feedback_of_each_kind(stage, call):
    stage.replies(b'{"accepted": 1, "known": 0}')
    assert call("feedback", "a", False).accepted == 1
    call("feedback", "a", reward=0.5, weight=2.0)
    call("feedback", "a", chosen=0, source="ann")
    call("feedback_many", [Label("a", 0), Reward("b", 1.0, 3.0), Preference("c", 2, source="bob")])
    call("judge", "a", 1, source="people/ann", seconds=2.5, why="kinder")
    call("judge", "a", verdict="tie")
    call("feedback_many", [Preference("c", -1, verdict="skip", seconds=1.0)])
    assert [one.body for one in stage.received] == [
        {"id": "a", "label": False, "weight": 1.0},
        {"id": "a", "reward": 0.5, "weight": 2.0},
        {"id": "a", "chosen": 0, "weight": 1.0, "source": "ann"},
        {
            "feedback": [
                {"id": "a", "label": 0, "weight": 1.0},
                {"id": "b", "reward": 1.0, "weight": 3.0},
                {"id": "c", "chosen": 2, "weight": 1.0, "source": "bob", "seconds": 0.0},
            ]
        },
        {"id": "a", "chosen": 1, "weight": 1.0, "source": "people/ann", "seconds": 2.5, "why": "kinder"},
        {"id": "a", "weight": 1.0, "verdict": "tie", "seconds": 0.0},
        {"feedback": [{"id": "c", "chosen": -1, "weight": 1.0, "verdict": "skip", "seconds": 1.0}]},
    ]


def test_examples(stage, call):
    stage.replies(b'{"accepted": 1, "ids": ["e"], "errors": [{"index": 1, "detail": "no"}]}')
    learned = call("learn", {"x": 1}, "fraud", id="e")
    assert (learned.ids, learned.errors) == (("e",), (RowError(1, "no"),))
    call("learn_many", [Example("", {"x": 1}, 1)])
    assert stage.received[0].body == {"features": {"x": 1}, "label": "fraud", "id": "e", "weight": 1.0}
    assert len(stage.received[1].body["examples"][0]["id"]) > 20


def test_lists_come_page_by_page(stage, call):
    entry = {"position": 1, "time": 0.0, "action": "drift", "at": 1, "reason": "r", "by": "drift", "alias": ""}
    entry |= {"version": "", "previous": "", "evidence": None, "detail": {}, "seal": "00", "added_later": 1}
    chain = {"ok": True, "head": "00", "broken": None, "checked": 1}
    page = {"decisions": [entry], "total": 2, "chain": chain}
    stage.replies(msgspec.json.encode(page | {"next": 5}), msgspec.json.encode(page | {"next": None}))
    assert len(call("decisions")) == 2
    assert [one.path for one in stage.received] == ["/decisions?after=0&limit=1000", "/decisions?after=5&limit=1000"]
    stage.replies(msgspec.json.encode(page | {"next": 5}))
    assert len(call("decisions", after=3, limit=1)) == 1
    assert stage.received[-1].path == "/decisions?after=3&limit=1"


def test_any_letter_may_stand_in_an_id(stage, call):
    stage.replies(errors.InputError("no"))
    with pytest.raises(errors.InputError):
        call("event", "a/b?c#d é%20")
    assert stage.received[0].path == "/events/a%2Fb%3Fc%23d%20%C3%A9%2520"


def test_commands(stage, call):
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
    assert [(one.method, one.path, one.body) for one in stage.received] == [
        ("POST", "/versions/v1/promote", {"reason": "why"}),
        ("POST", "/rollback", {"reason": "why", "without": {"source": "bot", "first": 3, "last": 9}, "to": "previous"}),
        ("POST", "/rollback", {"reason": "asked for by the user", "to": "previous"}),
        ("POST", "/challengers", {"model": {"family": "linear"}, "reason": "why", "warm": True}),
        ("POST", "/merge", merged | {"density": 0.0, "scale": 1.0, "seed": 0}),
        ("DELETE", "/challengers/v1?reason=why", None),
    ]


def test_health_is_returned_not_raised(stage, call):
    stage.replies(b'{"status": "ok", "staleness": 0.25}')
    assert call("health") == Health(True, "", 0.25)
    stage.replies(Refused(503, "Not healthy", "the learner is gone"))
    assert call("health") == Health(False, "the learner is gone")
    assert len(stage.received) == 2  # without a second attempt


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownId("no prediction with id 'a'"),
        errors.InputError("weight: got -1, expected a number from 0 to 1e30"),
        errors.ConfigError("there is no previous champion"),
        errors.IdTaken("the id 'a' names another record; use another id"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_as_in_process(stage, call, error):
    stage.replies(error)
    with pytest.raises(type(error)) as caught:
        call("feedback", "a", True)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


def test_early_feedback_without_room_is_sent_again_and_then_the_error_of_the_loop(stage, call, quickly):
    stage.replies(errors.NoRoom("no room for 'a'"))
    with pytest.raises(errors.NoRoom, match="no room for 'a'"):
        call("feedback", "a", True)
    assert len(stage.received) > 1


@pytest.mark.parametrize("kind", [errors.LogError, errors.BlobError])
def test_files_of_the_server_that_fail_are_the_same_error_without_their_paths(stage, call, caplog, kind):
    caplog.set_level(logging.CRITICAL)
    stage.replies(kind("/srv/log: disk full"))
    with pytest.raises(kind, match="in the log under this id") as caught:
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


def test_an_unknown_version_is_an_input_error(stage, call):
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
    assert [one.path for one in stage.received] == ["/predict"]


@pytest.mark.parametrize("features", [{"x": object()}, {"x": {1: 2}.keys()}])
def test_what_json_cannot_say_is_refused_before_it_is_sent(stage, call, features):
    with pytest.raises(errors.InputError, match="cannot be sent as JSON"):
        call("predict", features)
    assert stage.received == []


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
def test_numbers_that_json_cannot_hold_are_refused_with_the_words_of_a_loop(stage, call, method, given, more, words):
    with pytest.raises(errors.InputError, match=words):
        call(method, *given, **more)
    assert stage.received == []


def test_a_feature_that_is_no_number_is_missing_as_in_process(stage, call):
    stage.replies(ANSWER)
    call("predict", {"a": math.nan, "b": None})
    assert stage.received[0].body["features"] == {"a": None, "b": None}
