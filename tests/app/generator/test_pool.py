"""The pool of ready pairs: leases, prompts that are too long, second opinions, and asking that stops."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.app.generator import label, pool
from everlearn.app.generator.accounts import PEOPLE
from everlearn.families.preference import choose
from everlearn.records import Decision, Prediction
from tests.support.generators import Generator, generating
from tests.support.preference_loops import settings
from tests.support.servers import until


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Generator]:
    (tmp_path / "prompts.txt").write_text("hello\n" + "word " * 80 + "\nhow are you\n")
    given = settings(prompts=str(tmp_path / "prompts.txt"), ask={"both": 0.0, "planted": 0.0})
    with generating(tmp_path / "home", given) as made:
        yield made


def following(running: Generator, name: str) -> str:
    """Return the id of an annotator's pair, after it was judged."""
    pair = running.http.get("/label/next", params={"annotator": name}).raise_for_status().json()
    given = {"id": pair["id"], "annotator": name, "verdict": "left"}
    running.http.post("/label/judge", json=given).raise_for_status()
    return str(pair["id"])


def test_a_pair_of_an_absent_annotator_goes_to_another(running: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    held = running.http.get("/label/next", params={"annotator": "anna"}).json()["id"]
    assert held not in [following(running, "bert") for _ in range(pool.AHEAD + 2)]
    monkeypatch.setattr(label, "LEASE", 0.2)
    time.sleep(0.3)
    assert held in [following(running, "bert") for _ in range(pool.AHEAD + 2)]
    assert running.http.get("/label/next", params={"annotator": "anna"}).json()["id"] != held


def test_a_prompt_that_is_too_long_is_passed_over_and_counted(
    running: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = {running.http.get("/label/next", params={"annotator": f"a{n}"}).json()["prompt"] for n in range(6)}
    assert prompts <= {"<p>hello</p>\n", "<p>how are you</p>\n"}
    found = running.http.get("/v1/preferences").json()
    assert (found["prompts"], found["skipped_prompts"], found["state"]) == (3, 1, "asking")


def test_asking_stops_while_labels_teach_nothing_and_says_so(running: Generator) -> None:
    part: Any = running.loop.ready().model.part("asking")  # type: ignore[attr-defined]
    following(running, "anna")
    part["information"][:] = 1e-6
    running.publish()
    until(lambda: running.http.get("/v1/preferences").json()["state"] == "stopped")
    refused = running.http.get("/label/next", params={"annotator": "carl"})
    assert (refused.status_code, "asking has stopped" in refused.json()["detail"]) == (503, True)
    choose.again(part)
    running.publish()
    until(lambda: running.http.get("/label/next", params={"annotator": "carl"}).status_code == 200)
    noted = [one.payload for one in running.events() if isinstance(one.payload, Decision)]
    assert [one.detail["asking"] for one in noted if "asking" in one.detail] == ["stopped", "on"]


def test_a_share_of_pairs_is_shared_by_their_ids() -> None:
    made = [Prediction(f"p{n}", {}, "", (), "", payload={"arm": "random"}) for n in range(4000)]
    found = sum(pool.shared(one, 0.1) for one in made) / len(made)
    assert found == pytest.approx(0.1, abs=0.02)
    assert not any(pool.shared(Prediction(one.id, {}, "", (), "", payload={"arm": "duel"}), 1.0) for one in made)
    assert PEOPLE == 0
