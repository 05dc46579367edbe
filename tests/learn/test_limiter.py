"""One label or many, rows ahead or one by one: the limits end with the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.learn.limiter import ClippedAhead, Limiter
from everlearn.model import row_slice
from everlearn.schema import shape
from everlearn.spec import LimitsSpec
from tests.support.loops import spec
from tests.support.models import examples

STRICT = LimitsSpec(clip=0.05, weight=2.0, source=0.4, window=20, quarantine=0.8)
SHAPE = shape(spec().schema) | {"dense": 3}


def limiter(chosen: LimitsSpec = STRICT, **more: object) -> Limiter:
    return Limiter(spec(limits=chosen), SHAPE, **more)  # type: ignore[arg-type]


def state(one: Limiter) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in one.arrays.items()}


def test_labels_one_by_one_and_as_rows_are_admitted_alike() -> None:
    draw, rows = np.random.default_rng(3), examples(300)
    answers = draw.dirichlet([1.0, 1.0], 300).astype(np.float32)
    sources = [["web", "api", ""][i % 3] for i in range(300)]
    rows.weight[::7] = 5.0
    single, whole = limiter(), limiter()
    weights = [
        single.admit(rows.y[i], float(rows.weight[i]), sources[i], int(rows.position[i]), answers[i : i + 1])
        for i in range(300)
    ]
    admitted = whole.admit_rows(rows, sources, answers)
    kept = [one for one in weights if one is not None]
    assert 0 < len(kept) < 300
    assert [one is not None for one in weights] == admitted.keep.tolist()
    assert [one.scored for one in kept] == admitted.examples.weight.tolist()
    assert [one.learned for one in kept] == admitted.learned.tolist()
    assert any(one.scored and not one.learned for one in kept)
    assert state(single) == state(whole)


@pytest.mark.parametrize("come", [1, 5, 40])
def test_rows_clipped_ahead_leave_the_ranges_of_those_that_came(come: int) -> None:
    batch = examples(40).batch
    ahead, one_by_one = limiter(), limiter()
    clipped = ClippedAhead(ahead, batch)
    expected = [one_by_one.bound(row_slice(batch, row, row + 1)).dense for row in range(come)]
    clipped.advance(come)
    assert state(ahead) == state(one_by_one)
    assert clipped.clipped.dense[:come].tobytes() == np.concatenate(expected).tobytes()


def test_given_ranges_are_not_learned_again() -> None:
    fixed = {"low": np.full(3, -0.5, np.float32), "high": np.full(3, 0.5, np.float32)}
    one, batch = limiter(ranges=fixed), examples(100).batch
    before = state(one)
    assert np.abs(one.bound(batch).dense).max() == 0.5
    assert state(one) == before


def test_without_limits_nothing_is_held_back() -> None:
    one, batch = limiter(LimitsSpec()), examples(5).batch
    assert not one.judges
    assert one.bound(batch) is batch
    assert one.admit(1.0, 3.0, "any", 1) == (3.0, 3.0)
