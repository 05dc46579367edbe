"""A file of judged pairs, several times, and people afterwards: one run, one log, the same bytes after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from everlearn.errors import ConfigError, IdTaken, InputError
from everlearn.loop import pair_file
from everlearn.loop.loop import Loop
from everlearn.records import Prediction, Preference
from everlearn.schema.question import decode, judged
from everlearn.spec import Spec
from tests.support.preference_loops import MODEL, settings

ROWS: list[dict[str, Any]] = [
    {"prompt": f"hello {i}", "chosen": "I am well", "rejected": "how are you there", "score": i} for i in range(7)
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spec(**model: Any) -> Spec:
    return settings(model=MODEL | {"improve": {"steps": 1, "prompts": 2, "candidates": 3, "method": "dpo"}} | model)


def bytes_of(loop: Loop) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in learner(loop).arrays.items()}


def learner(loop: Loop) -> Any:
    return loop.ready().model


def test_a_file_is_learned_several_times_and_people_go_on(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    with Loop(spec(), tmp_path / "home") as loop:
        taken = pair_file.take(loop, path, epochs=3)
        assert (taken.pairs, taken.epochs, taken.refused) == (7, 3, 0)
        found = learner(loop).summary()
        assert (found["labels"], found["trusted"], found["repeated"], found["rounds"]) == (7, 7, 14, 5)
        assert learner(loop).policy.steps == 5
        assert [one["judged"] for one in found["annotators"]] == [7]  # an annotator is not judged by what is repeated
        assert loop.fold.monitor.scored == 7
        questions = [e.payload for e in loop.log.read(0, 1000) if isinstance(e.payload, Prediction)]
        verdicts = {e.payload.id: e.payload for e in loop.log.read(0, 1000) if isinstance(e.payload, Preference)}
        for one in questions:
            pair = judged(decode(one.payload))
            assert pair[verdicts[one.id].chosen].text == "I am well"
            assert verdicts[one.id].source == "people/pairs"
        assert {verdicts[one.id].chosen for one in questions} == {0, 1}  # the place says nothing
        for _ in range(2):  # online: the same loop asks and learns
            loop.judge(loop.ask("hello there").id, 0, source="people/anna")
        assert learner(loop).summary()["labels"] == 9


def test_the_head_learns_each_pair_once(tmp_path: Path) -> None:
    path, heads = write(tmp_path, ROWS), []
    for epochs in (1, 4):
        with Loop(spec(), tmp_path / f"home-{epochs}") as loop:
            pair_file.take(loop, path, epochs=epochs)
            heads.append({name: array.copy() for name, array in learner(loop).part("reward").items()})
    for name, array in heads[0].items():
        np.testing.assert_array_equal(array, heads[1][name])


def test_an_interrupted_file_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    with Loop(spec(), tmp_path / "whole") as loop:
        pair_file.take(loop, path, epochs=2)
        expected = bytes_of(loop)
    for stop in (3, 9):
        home = tmp_path / f"cut-{stop}"
        with Loop(spec(), home) as loop:
            judge, left = loop.judge, [stop]

            def cut(*given: Any, judge: Any = judge, left: list[int] = left, **more: Any) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                judge(*given, **more)

            loop.judge = cut  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                pair_file.take(loop, path, epochs=2)
        with Loop(spec(), home) as loop:
            pair_file.take(loop, path, epochs=2)
            pair_file.take(loop, path, epochs=2)  # a file that was taken counts once
            found = bytes_of(loop)
        assert found == expected


def test_what_is_no_fault_of_a_row_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ROWS[:2])
    with Loop(spec(), tmp_path / "home") as loop:
        pair_file.take(loop, path)
        tokenizer = learner(loop).tokenizer
        monkeypatch.setattr(learner(loop), "tokenizer", None)
        with pytest.raises(InputError, match="tokenizer: got none"):
            pair_file.take(loop, path)
        monkeypatch.setattr(learner(loop), "tokenizer", tokenizer)
        encode = type(tokenizer).encode
        monkeypatch.setattr(type(tokenizer), "encode", lambda *given, **more: encode(*given, **more)[1:])
        with pytest.raises(IdTaken):
            pair_file.take(loop, path)
    linear = settings(model={"family": "linear"})
    with Loop(linear, tmp_path / "linear") as loop, pytest.raises(InputError, match="which takes no texts of others"):
        pair_file.take(loop, path)


def test_rankings_and_rows_that_cannot_be_used(tmp_path: Path) -> None:
    ranked = {"prompt": "hello", "completions": ["I am well", "there", "how"], "ranks": [1, 2, 2]}
    with Loop(spec(), tmp_path / "home") as loop:
        assert pair_file.take(loop, write(tmp_path, [ranked], "ranked.jsonl"), by="judge/x").pairs == 2
        long = {"prompt": "hello", "chosen": "I am well " * 20, "rejected": "there"}
        found = pair_file.take(loop, write(tmp_path, [*ROWS[:2], long, {"prompt": "x", "chosen": "", "rejected": "y"}]))
        assert (found.pairs, found.refused) == (2, 2)
        reasons = {row.line: row.reason for row in found.rejected}
        assert reasons.keys() == {3, 4}
        assert "expected at most 12 (schema.answer_tokens)" in reasons[3]
        assert reasons[4].startswith("chosen: got ''")
        assert learner(loop).summary()["trusted"] == 2
        with pytest.raises(InputError, match="expected pairs: prompt, chosen and rejected"):
            pair_file.take(loop, write(tmp_path, [{"prompt": "hello"}], "prompts.jsonl"))
        with pytest.raises(ConfigError, match="epochs: got 0; expected at least 1"):
            pair_file.take(loop, tmp_path / "pairs.jsonl", epochs=0)
