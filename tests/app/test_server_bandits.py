"""A server that chooses actions: late and shuffled rewards over HTTP, kills, a replay, and a logged file before it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.client.records import Answer
from everlearn.errors import InputError
from everlearn.loop.loop import Loop
from everlearn.records import Prediction, Reward
from everlearn.spec import GateSpec, ServeSpec
from everlearn.stream import read
from tests.support.bandit_models import FAMILY
from tests.support.bandits import ACTIONS, contexts, record, reward, spec, table, truth
from tests.support.servers import ServerProcess, catch_up, content, events_of, replay, until

ROWS, GROUP = 2000, 50
SETTINGS = spec(model={"family": "bandit"}, checkpoint=400, serve=ServeSpec(port=0))


def rewards(answers: dict[int, Answer], rows: list[int]) -> list[Reward]:
    found = contexts(ROWS)
    return [Reward(str(row), reward(found[row], str(answers[row].value), row)) for row in rows]


@pytest.mark.slow
def test_a_server_that_is_killed_learns_to_beat_the_best_constant_action(tmp_path: Path) -> None:
    """2,000 requests whose rewards come late and shuffled; everything is killed on the way, and nothing is lost."""
    found, draw = contexts(ROWS), np.random.default_rng(1)
    answers: dict[int, Answer] = {}
    waiting: list[int] = []
    home = tmp_path / "home"
    with ServerProcess(SETTINGS, home) as server:
        for begin in range(0, ROWS, GROUP):
            if begin in (600, 1200):
                server.kill_everything()
                server.start()
            asked = range(begin, begin + GROUP)
            with Client(server.url) as client:
                given = client.predict_many([record(found[row]) for row in asked], [str(row) for row in asked])
                answers |= dict(zip(asked, given, strict=True))
                waiting += asked
                draw.shuffle(waiting)
                judged, waiting = waiting[: len(waiting) // 2], waiting[len(waiting) // 2 :]
                until(lambda client=client: client.status()["position"] >= client.status()["end"])  # type: ignore[misc]
                assert client.feedback_many(rewards(answers, judged)).errors == ()
        with Client(server.url) as client:
            client.feedback_many(rewards(answers, waiting))
            until(lambda: client.status()["examples"] == ROWS)
            shown = client.status()["bandit"]
    late = [truth(found[row], str(answers[row].value)) for row in range(ROWS // 2, ROWS)]
    assert np.mean(late) > 0.7  # the best constant action earns 0.5, the best policy 0.8
    assert shown["policies"]["champion"]["low"] > 0.5  # and it says so from the log alone, at every moment
    assert shown["policies"]["champion"]["value"] > 0.6
    assert sum(one["served"] for one in shown["actions"]) == ROWS
    logged = {one.payload.id: one.payload for one in events_of(home) if isinstance(one.payload, Prediction)}
    assert len(logged) == ROWS
    for row, answer in answers.items():
        held = logged[str(row)]
        assert (held.value, held.propensity, held.proba) == (answer.value, answer.propensity, answer.proba)
    with Loop(SETTINGS, home) as loop:
        learned = content(loop)
    assert learned == replay(home, SETTINGS, tmp_path / "replay")


def test_the_messages_of_a_bandit(tmp_path: Path) -> None:
    with Server(SETTINGS, tmp_path / "home") as server, Client(server.url) as client:
        answer = client.predict({"x": 1.0}, id="a", actions=["left", {"name": "middle"}])
        assert answer.value in ("left", "middle")
        assert answer.propensity == answer.proba[ACTIONS.index(str(answer.value))]
        assert answer.proba[2] == 0.0
        again = client.predict({"x": 1.0}, id="a", actions=["left", {"name": "middle"}])
        assert (again.value, again.propensity) == (answer.value, answer.propensity)
        within = client.predict_many([{"x": 1.0, "actions": ["right"]}, {"x": 2.0}])
        assert (within[0].value, within[0].propensity) == ("right", 1.0)
        for wrong, said in (
            ({"x": 1.0, "action": "left"}, "the loop chooses the action"),
            ({"x": 1.0, "actions": ["lift"]}, "expected names among 'left', 'middle', 'right'"),
        ):
            with pytest.raises(InputError, match=said):
                client.predict(wrong)
        catch_up(server)
        with pytest.raises(InputError, match="expected 0 to 1. Scale it, or set schema.rewards to its bounds"):
            client.feedback("a", reward=2.0)
        assert client.feedback("a", reward=1.0).accepted == 1
        client.learn({"x": 1.0, "action": "left", "propensity": 0.5}, 1.0)
        with pytest.raises(InputError, match='set schema.propensity = "uniform" if all actions had the same'):
            client.learn({"x": 1.0, "action": "left"}, 1.0)
        with urllib.request.urlopen(f"{server.url}/openapi.json") as reply:
            schemas = json.load(reply)["components"]["schemas"]
        assert schemas["PredictRequest"]["properties"]["actions"]["items"]["anyOf"][0] == {"enum": [*ACTIONS]}
        assert schemas["Target"] == {
            "title": "Target",
            "description": "reward: the reward of the action.",
            "type": "number",
            "minimum": 0.0,
            "maximum": 1.0,
        }
        with urllib.request.urlopen(f"{server.url}/metrics") as reply:
            text = reply.read().decode()
        assert 'everlearn_actions_served_total{action="right"}' in text


def test_a_logged_file_is_learned_before_a_server_starts(tmp_path: Path) -> None:
    found, home = contexts(ROWS), tmp_path / "home"
    with Loop(SETTINGS, home) as loop:
        loop.run(read(table(900), schema=SETTINGS.schema))
    with Server(SETTINGS, home) as server, Client(server.url) as client:
        given = client.predict_many([record(one) for one in found[:200]])
    assert np.mean([truth(found[row], str(one.value)) for row, one in enumerate(given)]) > 0.65


@pytest.mark.slow
def test_a_canary_is_logged_with_the_propensities_of_both_models(tmp_path: Path) -> None:
    """A champion that always explores, and a candidate that hardly does: a mean over ids is that of the mixture."""
    idle = {"family": FAMILY, "rate": 0.0, "epsilon": 1.0}
    settings = spec(
        model=idle, mode="gated", gate=GateSpec(minimum=100_000), serve=ServeSpec(port=0, canary=0.5), checkpoint=400
    )
    found, home, answers = contexts(ROWS), tmp_path / "home", dict[int, Answer]()
    with Server(settings, home) as server, Client(server.url) as client:
        client.challenge({"family": FAMILY, "rate": 0.0, "epsilon": 0.1}, "to try", warm=False)
        catch_up(server)
        for begin in range(0, 800, GROUP):
            asked = range(begin, begin + GROUP)
            given = client.predict_many([record(found[row]) for row in asked], [str(row) for row in asked])
            answers |= dict(zip(asked, given, strict=True))
            catch_up(server)
            client.feedback_many(rewards(answers, [*asked]))
        catch_up(server)
    by_canary = [one for one in answers.values() if one.canary]
    assert 0.4 < len(by_canary) / len(answers) < 0.6
    # Both expect the same of every action, so that the best one is the first.
    mixture = [0.5 * (1 / 3) + 0.5 * (0.9 + 0.1 / 3), 0.5 / 3 + 0.5 * 0.1 / 3, 0.5 / 3 + 0.5 * 0.1 / 3]
    for one in answers.values():
        assert one.proba == pytest.approx(mixture, abs=1e-6)
        assert one.propensity == one.proba[ACTIONS.index(str(one.value))]
    assert sum(1 / one.propensity for one in answers.values() if one.value != "left" and one.propensity) / 800 == (
        pytest.approx(2.0, abs=0.5)
    )
    with Loop(settings, home) as loop:
        policies = loop.report()["bandit"]["policies"]
        assert policies["champion"]["value"] == pytest.approx(policies["uniform"]["value"], abs=0.01)
        learned = content(loop)
    assert learned == replay(home, settings, tmp_path / "replay")
