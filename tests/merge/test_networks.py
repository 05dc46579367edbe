"""Merging networks: by the Fisher information of their terms, with themselves, from one start, and adapters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from everlearn import model  # noqa: E402
from everlearn.errors import ModelError  # noqa: E402
from everlearn.families.neural import build  # noqa: E402
from everlearn.merge import How, adapters, merge, merged  # noqa: E402
from everlearn.records import Singles  # noqa: E402
from tests.support.merged_networks import NORMED, learned, rows  # noqa: E402
from tests.support.neural_nets import one_thread  # noqa: E402, F401

EWC = {
    "ema": 0.9, "normalize": False, "terms": [{"kind": "ewc", "strength": 1.0}],
    "consolidate": {"every": 200, "rows": 64},
}  # fmt: skip


def test_by_the_fisher_information_of_their_own_terms():
    one, other = learned(EWC, 1), learned(EWC, 2)
    found = merged(How(method="fisher"), [one, other])
    for name in [name for name in one.arrays if name.startswith("learn/raw/")]:
        bare = name.removeprefix("learn/raw/")
        f, g = (each.arrays[f"learn/terms/0-ewc/fisher/{bare}"].astype(float) for each in (one, other))
        for place in ("weights/", "learn/raw/"):
            a, b = one.arrays[place + bare].astype(float), other.arrays[place + bare].astype(float)
            total = np.where(f + g > 0, f + g, 1.0)
            wanted = np.where(f + g > 0, (f * a + g * b) / total, (a + b) / 2)
            np.testing.assert_allclose(found[place + bare], wanted, rtol=1e-4, atol=1e-6)
    fresh = learned(EWC, 1, 100)
    with pytest.raises(ModelError, match="parent 2 is 0 everywhere: nothing was consolidated yet"):
        merged(How(method="fisher"), [one, fresh])
    with pytest.raises(ModelError, match="keep no Fisher information"):
        merged(How(method="fisher"), [learned({}, 1, 50), learned({}, 2, 50)])


@pytest.mark.parametrize("spec", [{}, EWC, NORMED, {"head": "ncm", "normalize": False}], ids=str)
def test_a_network_merged_with_itself_says_the_same_and_learns_on_the_same(spec: dict[str, Any]):
    one = learned(spec, 1, 200)
    both = build(one.spec)
    model.restore(both, merged(How(method="linear"), [one, one]))
    batch, y = rows(40, 5)
    np.testing.assert_allclose(both.predict(batch), one.predict(batch), atol=1e-5)
    said: list[Singles] = [each.learn(batch, y, np.ones(40, np.float32)) for each in (one, both)]
    np.testing.assert_allclose(said[0], said[1], atol=1e-4)


def test_networks_that_began_alike_merge_better_than_those_that_did_not():
    """From one start the mean of two is as good as they are; from two starts their units are in another order."""
    batch, y = rows(1000, 77)

    def right(arrays: dict[str, Any], spec: Any) -> float:
        whole = build(spec)
        model.restore(whole, arrays)
        return float((whole.predict(batch).argmax(1) == y).mean())

    spec = {"ema": 0.0, "normalize": False, "arguments": {"hidden": [32]}}
    begun = learned(spec, 1, 3000)
    parts = []
    for seed in (2, 3):
        part = build(begun.spec)
        model.restore(part, begun.arrays)
        part.learn(*rows(1500, seed), np.ones(1500, np.float32))
        parts.append(part)
    alike = right(merged(How(method="linear"), parts), begun.spec)
    single = right(parts[0].arrays, begun.spec)
    strangers = [learned({**spec, "seed": seed}, seed, 4500) for seed in (1, 2)]
    with pytest.raises(ModelError, match="seed is 1 in one and 2 in another"):
        merged(How(method="linear"), strangers)
    lost = right(merge("linear", [one.arrays for one in strangers], spec=begun.spec), begun.spec)
    assert alike > single - 0.02
    assert lost < right(strangers[0].arrays, begun.spec) - 0.05


def test_adapters_of_a_network_are_merged_as_deltas():
    pytest.importorskip("peft")
    spec = {"normalize": False, "ema": 0.9, "arguments": {"hidden": [16]}, "lora": {"rank": 2, "alpha": 4.0}}
    one, other = learned(spec, 1), learned(spec, 2)
    found = merged(How(method="linear", weights=(0.5, 0.5)), [one, other])
    pairs = adapters.pairs([name for name in found if name.startswith(("weights/", "learn/raw/"))])
    assert pairs
    for a, b in pairs:
        wanted = sum(0.5 * adapters.delta(each.arrays[a], each.arrays[b]) for each in (one, other))
        s = np.linalg.svd(wanted, compute_uv=False)
        left = np.linalg.norm(adapters.delta(found[a], found[b]) - wanted)
        assert left == pytest.approx(np.sqrt(np.sum(s[2:] ** 2)), abs=1e-4)
    both = build(one.spec)
    model.restore(both, found)
    both.learn(*rows(20, 8), np.ones(20, np.float32))
