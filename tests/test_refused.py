"""A row that a network cannot take costs itself only: it is refused at the door, or set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn._torch import Tensor, nn
from everlearn.errors import ConfigError, InputError
from everlearn.model import copied, refused
from everlearn.records import Batch, Example
from everlearn.spec import Schema

TOKENS = 50


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(TOKENS, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.out(self.embed(x).mean(1))
        return answer


SCHEMA = Schema(label="y", task="binary", classes=(False, True), fields={"tokens": "vector[3]"})
WORDS = {"family": "tests.test_refused:Words", "dtype": "int64", "optimizer": {"name": "adam", "lr": 0.01}}
BYTES = {"family": "neural", "memory": {"rows": 50, "dtype": "uint8"}, "scale": 1 / 255}
BAD = {"words": [99, 1, 1], "bytes": [1.5, 1, 1]}
MODELS: dict[str, dict[str, Any]] = {"words": WORDS, "bytes": BYTES}


def rows(count: int, seed: int = 0) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, TOKENS, (count, 3)).tolist()


def batch(values: list[list[float]]) -> Batch:
    n = len(values)
    none = np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    return Batch(np.array(values, np.float32), *none)


@pytest.mark.parametrize("mode", ["live", "gated"])
@pytest.mark.parametrize("name", MODELS)
def test_a_loop_refuses_it_at_the_door_and_goes_on(tmp_path: Path, name: str, mode: str) -> None:
    spec = {"mode": mode, "schema": SCHEMA, "model": MODELS[name]}
    with el.open(spec, home=tmp_path / "home") as loop:
        for row in rows(30):
            loop.learn({"tokens": row}, row[0] > 20)
        before = loop.log.count("example")
        with pytest.raises(InputError, match="tokens below the size|column 0 is 1.5, which uint8"):
            loop.learn({"tokens": BAD[name]}, True)
        assert loop.log.count("example") == before
        if name == "words":
            with pytest.raises(InputError):
                loop.predict({"tokens": BAD[name]})
        loop.learn({"tokens": rows(1)[0]}, True)
        assert loop.report()["examples"] == before + 1
    with el.open(spec, home=tmp_path / "home") as loop:
        assert loop.report()["examples"] == before + 1
        assert [one.action for one in loop.decisions() if one.action in ("rollback", "reject")] == []


@pytest.mark.parametrize("warm", [0, 20])
@pytest.mark.parametrize("name", MODELS)
def test_in_a_file_it_is_set_aside_with_its_number_and_reason(tmp_path: Path, name: str, warm: int) -> None:
    given = rows(60)
    clean = [row for i, row in enumerate(given) if i not in (10, 40)]
    given[10] = given[40] = BAD[name]
    spec = {"mode": "live", "schema": SCHEMA, "model": MODELS[name], "warm_start": warm}
    found = []
    for home, values in (("with", given), ("without", clean)):
        stream = el.read({"tokens": values, "y": [row[0] > 20 for row in values]}, schema=SCHEMA)
        with el.open(spec, home=tmp_path / home) as loop:
            loop.run(stream)
            found.append((copied(loop.fold.roster.champion.model.arrays), loop.report()["examples"]))
            aside = [(one.at, one.reason) for one in loop.rejected()]
            assert [at for at, _ in aside] == ([11, 41] if home == "with" else [])
            assert all("expected" in reason for _, reason in aside)
    (one, scored), (other, also) = found
    assert scored == also == 58 - warm
    assert all(one[key].tobytes() == other[key].tobytes() for key in one)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_log_holds_already_is_passed_over(tmp_path: Path, name: str) -> None:
    """Whoever wrote it there did not ask the model: an older release, or a server with another champion."""
    settings = {"mode": "live", "schema": SCHEMA, "model": MODELS[name]}
    with el.open(settings, home=tmp_path / "home") as loop:
        for i, row in enumerate([*rows(20), BAD[name], *rows(20, seed=1)]):
            loop.log.append([Example(f"e{i}", {"tokens": row}, row[0] > 20)])
    with el.open(settings, home=tmp_path / "home") as loop:
        loop.ready()
        assert loop.report()["examples"] == 40
        assert loop.status()["unusable"] == 1


def test_the_reasons_are_told_for_each_row_and_hang_on_nothing_learned() -> None:
    model = el.build({**WORDS, "task": "binary", "dense": 3})
    values = [[1, 2, 3], [1, -1, 2], [0.5, 1, 1], [1, 1, 60], [float("nan"), 1, 1]]
    told = refused(model, batch(values))
    assert sorted(told) == [1, 2, 3]
    assert "column 1 is -1.0, expected a token" in told[1]
    assert "column 0 is 0.5" in told[2]
    assert "embedding" in told[3]
    before = copied(model.arrays)
    with pytest.raises(InputError, match="row 1 of the batch"):
        model.learn(batch(values), np.zeros(5), np.ones(5, np.float32))
    assert all(before[key].tobytes() == one.tobytes() for key, one in model.arrays.items())
    model.learn(batch([values[0]] * 64), np.zeros(64), np.ones(64, np.float32))
    assert refused(model, batch(values)) == told
    assert refused(el.build({"family": "linear", "task": "binary", "dense": 3}), batch(values)) == {}


@pytest.mark.parametrize("dtype", ["float16", "int16"])
def test_gaps_in_rows_that_are_standardised_do_not_hang_on_how_a_stream_is_cut(dtype: str) -> None:
    spec = {"family": "neural", "task": "binary", "dense": 3, "memory": {"rows": 20, "dtype": dtype}, "normalize": True}
    values = [[float(number) for number in row] for row in rows(40)]
    values[15][1] = float("nan")
    y, weight = np.arange(40) % 2.0, np.ones(40, np.float32)
    if dtype == "int16":
        told = refused(el.build(spec), batch(values))
        assert list(told) == [15]
        assert "column 1 is missing" in told[15]
        return
    whole, parts = el.build(spec), el.build(spec)
    whole.learn(batch(values), y, weight)
    for start, stop in ((0, 3), (3, 12), (12, 16), (16, 40)):
        parts.learn(batch(values[start:stop]), y[start:stop], weight[start:stop])
    assert all(one.tobytes() == parts.arrays[key].tobytes() for key, one in whole.arrays.items())


def test_a_model_that_cannot_be_built_is_refused_when_its_loop_is_opened(tmp_path):
    schema = {"label": "y", "task": "binary", "classes": (0, 1), "fields": {"x": "numeric"}}
    spec = {"schema": schema, "model": {"family": "nowhere:make_net"}}
    with pytest.raises(ConfigError, match="no module named 'nowhere' can be imported"):
        el.open(spec, home=tmp_path / "loop.home")
    with el.open(spec | {"model": {"family": "linear"}}, home=tmp_path / "loop.home") as loop:
        loop.learn({"x": 1.0}, 1)
        assert loop.report()["examples"] == 1
