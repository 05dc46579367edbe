"""Commands over HTTP: checked, appended to the log, carried out by the learner, and answered with their outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.app.admin import commands
from tests.support.admin import admin, learning, until


def test_commands_are_carried_out_before_they_are_answered(own):
    with learning(own), admin(own) as opened:
        versions = opened.get("/versions").json()
        champion, first = versions["aliases"]["champion"], versions["versions"][0]["id"]
        assert champion != first
        promoted = opened.send("POST", f"/versions/{first}/promote", reason="an old friend")
        assert promoted.status_code == 200, promoted.text
        body = promoted.json()
        assert body["folded"] is True
        assert body["aliases"]["champion"] == first == opened.get("/versions").json()["aliases"]["champion"]
        assert body["decision"]["reason"] == "an old friend"
        assert [one["action"] for one in body["followed"]] == ["promote"]
        back = opened.send("POST", "/rollback", reason="a false friend").json()
        assert back["aliases"]["champion"] == champion
        started = opened.send("POST", "/challengers", model={"family": "linear", "l2": 0.1}, reason="shrink").json()
        version = started["followed"][0]["version"]
        assert started["followed"][0]["action"] == "challenger"
        until(lambda: version in [one["version"] for one in opened.get("/challengers").json()["challengers"]])
        ended = opened.client.delete(f"/challengers/{version}", params={"reason": "enough"})
        assert ended.status_code == 200, ended.text
        assert [one["action"] for one in ended.json()["followed"]] == ["withdraw"]
        decisions = opened.get("/decisions?order=newest&limit=1").json()["decisions"]
        assert decisions[0]["seal"]


def test_a_command_that_cannot_be_carried_out_says_why(own):
    with learning(own), admin(own) as opened:
        champion = opened.get("/versions").json()["aliases"]["champion"]
        answer = opened.client.delete(f"/challengers/{champion}")
        assert answer.status_code == 409, answer.text
        assert "could not be carried out" in answer.json()["detail"]


def test_a_command_waits_for_a_learner_that_is_gone(own, monkeypatch):
    monkeypatch.setattr(commands, "PATIENCE", 0.1)
    with learning(own):
        pass  # so that there is a status
    with admin(own) as opened:
        first = opened.get("/versions").json()["versions"][0]["id"]
        answer = opened.send("POST", f"/versions/{first}/promote", reason="when you are back")
        assert answer.status_code == 202
        assert answer.json()["folded"] is False
        assert answer.json()["aliases"]["champion"] != first
        with learning(own):
            until(lambda: opened.get("/versions").json()["aliases"]["champion"] == first)


def test_arrays_that_are_gone_cannot_be_promoted(own):
    with learning(own), admin(own) as opened:
        first = opened.get("/versions").json()["versions"][0]
        (Path(own.home) / "blobs" / f"{first['blob']}.safetensors").unlink()
        answer = opened.send("POST", f"/versions/{first['id']}/promote", reason="gone")
        assert answer.status_code == 409
        assert "pruned" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"family": "os:system"}, "may not be started here"),
        ({"family": "linear", "foo": 1}, "foo: unknown setting"),
        ({"family": "linear", "dense": 7}, "expected (1, 7)"),
        ({"family": ["linear"]}, "may not be started here"),
    ],
)
def test_a_challenger_that_cannot_be_built(opened, model, words):
    answer = opened.send("POST", "/challengers", model=model, reason="try")
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
