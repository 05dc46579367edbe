"""Planted questions: gold questions and repeated pairs reach the model, and look like all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everlearn.app.generator import planting
from everlearn.errors import InputError
from everlearn.records import Prediction
from everlearn.schema import question
from tests.support.generators import generating
from tests.support.preference_loops import settings

GOLD = [{"prompt": f"hello {n}", "chosen": "hello there", "rejected": "no"} for n in range(3)]
LONG = {"prompt": "word " * 80, "chosen": "yes", "rejected": "no"}


def written(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "gold.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_an_annotator_gets_planted_questions_that_look_like_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prompts.txt").write_text("hello\nhow are you\n")
    ask = {"both": 0.0, "planted": 0.25, "least": 0.0, "gold": written(tmp_path, *GOLD, LONG)}
    with generating(tmp_path / "home", settings(prompts=str(tmp_path / "prompts.txt"), ask=ask)) as running:
        shown, asked = [], []
        for number in range(40):
            pair = running.http.get("/label/next", params={"annotator": "anna"}).raise_for_status().json()
            event = running.loop.log.find(f"prediction:{pair['id']}")
            assert event is not None
            assert isinstance(event.payload, Prediction)
            found = question.decode(event.payload.payload)
            best = "left" if pair["swapped"] == (found.before == 1) else "right"  # gold: the first; again: as before
            verdict = best if found.arm in planting.PLANTED else "left" if number % 2 else "right"
            given = {"id": pair["id"], "annotator": "anna", "verdict": verdict, "seconds": 3.0}
            running.http.post("/label/judge", json=given).raise_for_status()
            shown.append(pair)
            asked.append(found)
        arms = [one.arm for one in asked]
        assert 4 <= arms.count("gold") <= 18
        assert 2 <= arms.count("again") <= 16
        assert {one["arm"] for one in shown} == {"random"}
        assert len({one["why"] for one in shown}) == 1
        ids = [one["id"] for one in shown]
        for place, one in enumerate(asked):
            if one.arm == "again":
                first = asked[ids.index(one.repeats)]
                assert ids.index(one.repeats) <= place - planting.GAP
                assert (one.answers, one.pair, one.prompt) == (first.answers, first.pair, first.prompt)
        while running.loop.catch_up():
            pass
        (anna,) = running.loop.ready().model.summary()["annotators"]
        assert (anna["gold"], anna["consistency"], anna["seconds"]) == (1.0, 1.0, 3.0)
        assert anna["judged"] == 40
    warnings = [one.getMessage() for one in caplog.records if "gold questions are passed over" in one.getMessage()]
    assert len(warnings) == 1
    assert "tokens" in warnings[0]


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        planting.read_gold(written(tmp_path))
    assert [one.better for one in planting.read_gold(written(tmp_path, *GOLD))] == ["hello there"] * 3
