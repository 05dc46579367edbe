"""What users do with answers, over HTTP, becomes rewards and pairs with a preference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from everlearn.records import Event, Prediction, Preference, Reward
from everlearn.schema import asked as question
from tests.support.generators import Generator, generating
from tests.support.preference_loops import settings


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    with generating(tmp_path_factory.mktemp("feedback") / "home", settings()) as made:
        yield made


def send(running: Generator, **body: Any) -> tuple[dict[str, int], list[Any]]:
    """Send feedback; return the reply and the events that it wrote."""
    end = running.loop.log.end()
    reply = running.http.post("/v1/feedback", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json(), [event.payload for event in running.loop.log.read(end)]


def learned(running: Generator) -> float:
    while running.loop.catch_up():
        pass
    return float(running.loop.ready().model.arrays["progress/counts"][0])


def test_thumbs_and_ratings_are_rewards(running: Generator) -> None:
    id = running.chat().id
    assert send(running, id=id, up=True) == ({"accepted": 1, "known": 0}, [Reward(id, 1.0, source="implicit/thumbs")])
    assert send(running, id=id, up=True) == ({"accepted": 1, "known": 1}, [])
    assert send(running, id=id, reward=0.25)[1] == [Reward(id, 0.25, source="implicit/rating")]
    assert send(running, id=id, reward=0.5, source="stars")[1] == [Reward(id, 0.5, source="stars")]
    assert send(running, id=id, accepted=True)[1] == [Reward(id, 1.0, source="implicit/accept")]


def test_an_edit_is_a_pair_that_the_model_learns(running: Generator) -> None:
    id, before = running.chat(seed=8).id, learned(running)
    reply, (pair, judged) = send(running, id=id, edit="I am well")
    assert reply == {"accepted": 1, "known": 0}
    assert isinstance(pair, Prediction)
    assert judged == Preference(pair.id, 1, source="implicit/edit")
    asked = question.decode(pair.payload)
    original = running.loop.log.find(f"prediction:{id}")
    assert isinstance(original, Event)
    assert isinstance(original.payload, Prediction)
    first, second = question.judged(asked)
    assert first == question.decode(original.payload.payload).answers[0]
    assert (second.text, second.finish, asked.arm, asked.selector) == ("I am well", "stop", "active", "implicit/edit")
    assert pair.features == original.payload.features
    assert learned(running) == before + 1
    assert send(running, id=id, edit="I am well") == ({"accepted": 1, "known": 1}, [])
    assert len(send(running, id=id, edit="hello")[1]) == 2


def test_a_choice_prefers_one_answer_to_all_others(running: Generator) -> None:
    reply = running.chat(n=3, seed=9)
    texts = [one.message.content for one in reply.choices]
    count, events = send(running, id=reply.id, index=1, chosen=True)
    others = [text for text in (texts[0], texts[2]) if text.split() != texts[1].split()]
    assert count["accepted"] == len(others) > 0
    pairs = [question.judged(question.decode(one.payload)) for one in events if isinstance(one, Prediction)]
    assert [(first.text, second.text) for first, second in pairs] == [(text, texts[1]) for text in others]
    judged = [one for one in events if isinstance(one, Preference)]
    assert {(one.chosen, one.source) for one in judged} == {(1, "implicit/chosen")}


def test_a_retry_prefers_the_answer_that_was_taken(running: Generator) -> None:
    first, second = running.chat(seed=10).id, running.chat(seed=11).id
    events = send(running, id=second, retried=[first])[1]
    assert [type(one) for one in events] == [Reward, Prediction, Preference]
    assert events[1].id == f"{first}/retry/{second}"
    other = running.chat(messages=[{"role": "user", "content": "how are you"}]).id
    reply = running.http.post("/v1/feedback", json={"id": other, "retried": [first]})
    assert reply.status_code == 400
    assert "replies to different messages" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"id": "nowhere", "up": True}, 404, "no prediction with id 'nowhere'"),
        ({}, 400, "missing required field `id`"),
        ({"id": "x", "thumb": 1}, 400, "unknown field `thumb`"),
        ({"id": "x", "reward": 7}, 400, "<= 1"),
    ],
)
def test_refusals_have_the_form_of_the_api(running: Generator, body: Any, status: int, message: str) -> None:
    reply = running.http.post("/v1/feedback", json=body)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]


def test_feedback_without_a_signal_is_refused(running: Generator) -> None:
    id = running.chat().id
    reply = running.http.post("/v1/feedback", json={"id": id})
    assert (reply.status_code, "got no signal" in reply.json()["error"]["message"]) == (400, True)
    long = running.http.post("/v1/feedback", json={"id": id, "edit": "hello " * 20})
    assert (long.status_code, "expected at most 12" in long.json()["error"]["message"]) == (400, True)
