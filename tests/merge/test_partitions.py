from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from everlearn.errors import ConfigError, ModelError
from everlearn.merge import partitions
from everlearn.model import FAMILIES, build
from everlearn.records import Floats
from tests.support.partitions import BINARY, labelled, learner, same

NUMBERS = of_numpy.arrays(np.float64, 5, elements=st.floats(-1e3, 1e3))


def moments_of(values: Floats) -> Floats:
    """Return count, mean and sum of squared deviations, by numpy."""
    if not len(values):
        return np.zeros((3, 1))
    return np.array([[len(values)], [values.mean()], [((values - values.mean()) ** 2).sum()]])


@given(st.lists(NUMBERS, min_size=1, max_size=4), st.data())
def test_an_average_is_that_of_numpy(parts: list[Floats], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(1, 1000), min_size=len(parts), max_size=len(parts))), float)
    expected = np.average(np.stack(parts), axis=0, weights=rows)
    np.testing.assert_allclose(partitions.averaged(parts, rows), expected, rtol=1e-12, atol=1e-9)


@given(st.lists(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_sum_of_changes_is_exact_for_integers(changes: list[list[int]]) -> None:
    base = np.array([7, -3, 0])
    parts = [base + np.array(change) for change in changes]
    assert partitions.added(base, parts).tolist() == (base + np.sum(changes, axis=0)).tolist()


@given(st.lists(st.lists(st.floats(-100, 100), max_size=20), min_size=3, max_size=5))
def test_moments_are_those_of_all_values(values: list[list[float]]) -> None:
    base, *more = (np.array(one) for one in values)
    parts = [moments_of(np.concatenate([base, own])) for own in more]
    expected = moments_of(np.concatenate([base, *more]))
    np.testing.assert_allclose(partitions.pooled_since(moments_of(base), parts), expected, rtol=1e-6, atol=1e-6)


def test_a_column_that_forgot_a_stretch_has_the_moments_of_that_part() -> None:
    base, grew, forgot = (moments_of(np.arange(float(n))) for n in (100, 120, 40))
    assert partitions.pooled_since(base, [grew, forgot]).tolist() == forgot.tolist()


@pytest.mark.parametrize("family", ["linear", "forest", "naive_bayes", "last"])
def test_one_partition_is_one_learner(family: str) -> None:
    spec = {"family": family, **BINARY}
    before, after = learner(spec, labelled(50)), learner(spec, labelled(50), labelled(60, seed=1))
    assert same(partitions.merged(after.spec, before.arrays, [after.arrays], [60]), after.arrays)


def test_parts_without_rows_change_nothing() -> None:
    model = learner({"family": "linear", **BINARY}, labelled(50))
    assert same(partitions.merged(model.spec, model.arrays, [model.arrays] * 3, [0, 0, 0]), model.arrays)


def test_parts_that_do_not_fit_are_refused() -> None:
    model = build({"family": "linear", **BINARY})
    with pytest.raises(ModelError, match="partition 1 has arrays that do not fit"):
        partitions.merged(model.spec, model.arrays, [model.arrays, {}], [1, 1])
    with pytest.raises(ModelError, match="rows: got"):
        partitions.merged(model.spec, model.arrays, [model.arrays], [1, 1])


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - partitions.FAMILIES.keys()))
def test_a_family_that_cannot_be_merged_is_refused_with_the_right_choices(family: str) -> None:
    with pytest.raises(ConfigError, match=f"got the family '{family}'.*expected one of auto, factorization, forest"):
        partitions.rules({"family": family})


def test_a_mix_with_a_member_that_cannot_be_merged_is_refused() -> None:
    mix = build({"family": "mix", "members": [{"family": "linear"}, {"family": "neighbours"}], **BINARY})
    with pytest.raises(ConfigError, match="got the family 'neighbours'"):
        partitions.rules(mix.spec)
