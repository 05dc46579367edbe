"""The pool of ready pairs: leases, prompts that are too long, second opinions, and asking that stops."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from everlearn.app.generator import label, pool
from everlearn.app.generator.accounts import PEOPLE
from everlearn.families.preference import choose
from everlearn.records import Decision, Ints, Prediction
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


class Few:
    """What a pool needs of its context and its accounts: any number of people may be asked, and no judge."""

    def __init__(self, stopped: bool = False) -> None:
        self.device, self.spec = SimpleNamespace(rounds=0, policy=None), settings()
        self.pool = pool.PairPool(self, self, 0, lambda: np.zeros(2, np.int64))  # type: ignore[arg-type]
        self.pool.stopped = stopped

    def left(self, seconds: float, reserved: Ints) -> Ints:
        found = np.zeros(2, np.int64)
        found[PEOPLE] = 99
        return found

    def add(self, name: str, **more: Any) -> pool.ReadyPair:
        one = pool.ReadyPair(Prediction(name, {}, "", (), "", payload={"arm": "random"}), 0, **more)
        self.pool.ready.append(one)
        return one

    def offered(self, name: str) -> str:
        return "" if (found := self.pool.offered(name)) is None else found.prediction.id


def test_a_pair_is_not_shown_again_to_the_annotator_who_judged_it() -> None:
    few = Few()
    few.pool.take(few.add("late"), "anna")
    few.pool.put_back("late", "anna", skipped=False)  # her lease is over
    assert (few.offered("anna"), few.offered("bert")) == ("late", "late")
    few.pool.opinion("late", "anna")  # her judgement comes after all
    assert (few.offered("anna"), few.offered("bert")) == ("", "")
    both = few.add("both", shared=True)
    few.pool.take(both, "anna")
    few.pool.take(both, "bert")
    few.pool.opinion("both", "anna")
    few.pool.put_back("both", "bert", skipped=False)
    assert [few.offered(name) for name in ("anna", "bert", "carl")] == ["", "both", "both"]
    assert few.pool.ready[0].shared
    few.pool.take(both, "carl")
    few.pool.opinion("both", "carl")
    assert not few.pool.ready


def test_pairs_that_were_skipped_keep_no_new_ones_away() -> None:
    few, made = Few(), 0
    for name in ("anna", "bert"):
        while few.pool._wants():
            made += 1
            few.add(f"p{made}")
        while (found := few.pool.offered(name)) is not None:
            few.pool.take(found, name)
            few.pool.put_back(found.prediction.id, name, skipped=True)
    assert made == 2 * pool.AHEAD
    assert few.pool._wants()  # anna and bert wait for others
    few.add("fresh")
    few.pool.drop_stale()
    assert few.offered("bert") == "fresh"
    assert len(few.pool.ready) == 1 + pool.AHEAD  # of those that were skipped, the newest stay for others
    assert few.offered("carl") != ""


def test_a_pair_that_waits_for_ever_does_not_stop_the_probe() -> None:
    few = Few(stopped=True)
    assert few.pool._wants()  # at the start, whatever the clock of the machine shows
    few.add("probe")
    assert not few.pool._wants()
    few.pool.take(few.pool.ready[0], "anna")
    few.pool.put_back("probe", "anna", skipped=True)
    few.pool.take(few.add("second opinion", shared=True), "anna")
    assert few.pool._wants()
    few.pool._probed = time.monotonic()
    assert not few.pool._wants()


def test_a_pair_that_was_only_skipped_is_taken_up_after_a_restart(running: Generator) -> None:
    pair = running.http.get("/label/next", params={"annotator": "anna"}).json()["id"]
    given = {"id": pair, "annotator": "anna", "verdict": "skip"}
    running.http.post("/label/judge", json=given).raise_for_status()
    context: Any = SimpleNamespace(log=running.loop.log, spec=running.loop.spec)
    (found,) = [one for one in pool.unjudged(context, judging=False) if one.prediction.id == pair]
    assert (found.met("anna"), found.met("bert"), found.waiting) == (True, False, False)
