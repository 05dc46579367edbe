"""Merging whole snapshots: errors, specs, and methods as plain values."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn import model
from everlearn.errors import ConfigError, ModelError
from everlearn.merge import How, merge, merged
from everlearn.records import Arrays
from tests.support.merging import trained

ONE: Arrays = {"w": np.ones(3), "n": np.array(1)}


@pytest.mark.parametrize(
    ("parents", "arguments", "error", "words"),
    [
        ([ONE, {"w": np.ones(4), "n": np.array(1)}], ("linear",), ModelError, r"parent 2 .*'w' has shape \(4,\)"),
        (
            [ONE, {"w": np.ones(3, np.float32), "n": np.array(1)}],
            ("linear",),
            ModelError,
            "dtype float32, expected float64",
        ),
        ([ONE, {"w": np.ones(3)}], ("linear",), ModelError, "'n' is missing"),
        ([ONE, ONE], ("sum",), ConfigError, "method: got 'sum'; expected one of linear, ema, fisher"),
        ([ONE], ("linear",), ConfigError, "got 1 parents; expected 2 or more for linear"),
        ([ONE, ONE, ONE], ("slerp",), ConfigError, "got 3 parents; expected 2 for slerp"),
        ([ONE, ONE], ("linear", [1.0]), ConfigError, "weights: got 1 for 2 parents"),
        ([ONE, ONE], ("linear", [1.0, -1.0]), ConfigError, "whose sum is not 0"),
        ([ONE, ONE], ("slerp", [2.0, -1.0]), ConfigError, "finite numbers from 0"),
        ([ONE, ONE], ("linear", [np.nan, 1.0]), ConfigError, "finite numbers"),
        ([ONE, ONE], ("ties",), ConfigError, "needs the common ancestor of the parents; name it"),
        ([ONE, ONE], ("fisher",), ModelError, "keep no Fisher information: a network keeps it with a term"),
        ([{**ONE, "w": np.array([1.0, np.inf, 0.0])}, ONE], ("linear",), ModelError, "snapshot 1 .* not finite in w"),
    ],
)
def test_what_cannot_be_merged_is_refused(parents: Any, arguments: Any, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        merge(arguments[0], parents, *arguments[1:])


@pytest.mark.parametrize(
    ("fisher", "words"),
    [
        ([{"w": np.ones(3)}], "of 1 parents; expected it of all 2"),
        ([{"w": np.ones(3)}, {"w": np.ones(2)}], r"parent 2 has the shape \(2,\) for 'w'; expected \(3,\)"),
        ([{"v": np.ones(3)}, {"w": np.ones(3)}], "parent 1 has the names v; expected some of w"),
        ([{"w": np.ones(3)}, {"w": np.zeros(3)}], "parent 2 is 0 everywhere"),
        ([{"w": -np.ones(3)}, {"w": np.ones(3)}], "parent 1 has numbers below 0"),
    ],
)
def test_fisher_information_that_does_not_fit_is_refused(fisher: Any, words: str):
    with pytest.raises((ConfigError, ModelError), match=words):
        merge("fisher", [ONE, {**ONE, "w": np.zeros(3)}], fisher=fisher)


def test_who_keeps_all_takes_no_density():
    with pytest.raises(
        ConfigError, match=r"density: got 0\.5 for linear, which does not use it; leave it out, or use ties, dare"
    ):
        merge("linear", [ONE, ONE], density=0.5)


def test_the_ancestor_is_one_of_the_family_too():
    with pytest.raises(ModelError, match=r"the ancestor does not fit the first parent: 'w' has shape \(2,\)"):
        merge("task", [ONE, ONE], ancestor={"w": np.ones(2), "n": np.array(1)})


def test_models_are_merged_where_they_differ_in_how_they_learn_alone():
    first, second = trained({"task": "binary"}, 1, 200), trained({"task": "binary", "rate": 0.2, "l2": 1e-4}, 2, 200)
    assert model.compare(first.arrays, merged(How(method="linear"), [first, second])) == []
    odd = trained({"task": "binary", "standardize": False}, 1, 200)
    with pytest.raises(ModelError, match="standardize is True in one and False in another"):
        merged(How(method="linear"), [first, odd])
    with pytest.raises(ModelError, match="families are 'linear' and 'neural'"):
        merged(How(method="linear"), [first, _As(first, {"family": "neural"})])


class _As:
    """A model that claims another spec."""

    def __init__(self, first: Any, spec: dict[str, Any]) -> None:
        self.spec, self.arrays, self.predict, self.learn = spec, first.arrays, first.predict, first.learn


def test_how_travels_as_plain_values():
    how = How(method="ties", weights=(1.0, 2.0), density=0.3)
    assert msgspec.convert(msgspec.to_builtins(how), How) == how
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"method": "ties", "power": 2}, How)
