"""Merging networks: their own Fisher information, batch normalisation made anew, adapters, and the loop around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from everlearn import model  # noqa: E402
from everlearn.errors import ConfigError, InputError, ModelError  # noqa: E402
from everlearn.families.neural import Neural, build  # noqa: E402
from everlearn.families.neural.batchnorm import reestimate  # noqa: E402
from everlearn.loop.loop import Loop  # noqa: E402
from everlearn.merge import How, adapters, merge, merged  # noqa: E402
from everlearn.records import Batch, Floats, Singles  # noqa: E402
from tests.support.loops import table  # noqa: E402
from tests.support.orders import quiet, serve, state  # noqa: E402
from tests.support.rosters import with_role  # noqa: E402

MADE = "tests.families.neural.test_neural_merge"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normed() -> nn.Module:
    """Two layers with batch normalisation between."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))


def rows(n: int, seed: int, shift: float = 0.0) -> tuple[Batch, Floats]:
    dense = (np.random.default_rng(seed).normal(size=(n, 4)) + shift).astype(np.float32)
    y = (dense[:, 0] - dense[:, 1] * dense[:, 2] > 0).astype(float)
    return Batch(dense, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)), y


def learned(spec: dict[str, Any], seed: int, n: int = 600, shift: float = 0.0) -> Neural:
    one = build({"family": "neural", "task": "binary", "dense": 4, "optimizer": {"name": "adam", "lr": 0.01}, **spec})
    batch, y = rows(n, seed, shift)
    one.learn(batch, y, np.ones(n, np.float32))
    return one


NORMED = {"module": f"{MADE}:normed", "normalize": False, "ema": 0.9}


def test_statistics_are_those_of_the_merged_network():
    one, other = learned(NORMED, 1), learned(NORMED, 2, shift=1.0)
    both = build(one.spec)
    model.restore(both, merged(How(method="linear"), [one, other]))
    before = {name: array.copy() for name, array in both.arrays.items()}
    batch, _ = rows(512, 9, shift=0.5)
    batches = [model.cut(_examples(batch), at, at + 64).batch for at in range(0, 512, 64)]
    assert reestimate(both, batches) == 512
    changed = {name for name, array in both.arrays.items() if (array != before[name]).any()}
    assert changed == {f"{place}1.{part}" for place in ("weights/", "learn/raw/") for part in PARTS}
    for place in ("weights/", "learn/raw/"):
        weight, bias = (both.arrays[f"{place}0.{name}"] for name in ("weight", "bias"))
        hidden = (batch.dense @ weight.T + bias).reshape(8, 64, 16)
        np.testing.assert_allclose(both.arrays[f"{place}1.running_mean"], hidden.mean((0, 1)), atol=1e-5)
        variances = hidden.var(axis=1, ddof=1).mean(axis=0)
        np.testing.assert_allclose(both.arrays[f"{place}1.running_var"], variances, rtol=1e-4)
        assert both.arrays[f"{place}1.num_batches_tracked"] == 8
    said = both.predict(batch)
    again = build(one.spec)
    model.restore(again, both.arrays)
    np.testing.assert_array_equal(again.predict(batch), said)
    assert not any(part.training for part in both._served.module.modules())


PARTS = ("running_mean", "running_var", "num_batches_tracked")


def _examples(batch: Batch) -> Any:
    n = len(batch)
    return model.Examples(batch, np.zeros(n), np.ones(n, np.float32), np.arange(n))


def test_statistics_that_cannot_be_estimated():
    plain = build({"task": "binary", "dense": 4})
    batch, _ = rows(8, 1)
    with pytest.raises(ConfigError, match="without running statistics"):
        reestimate(plain, [batch])
    one = learned(NORMED, 1, 100)
    with pytest.raises(InputError, match="batches: got none"):
        reestimate(one, [])
    before = one.predict(batch)
    with pytest.raises(InputError, match="Expected more than 1 value per channel"):
        reestimate(one, [rows(1, 1)[0]])
    np.testing.assert_array_equal(one.predict(batch), before)


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


def test_in_the_loop(tmp_path: Path):
    network = {"family": "neural", "arguments": {"hidden": [8]}, **EWC}
    columns = table(500)
    with Loop(quiet(challengers=4, model=network), tmp_path / "home") as loop:
        serve(loop, columns, 0, 30)
        one, other = loop.challenge(network), loop.challenge(network, warm=False)
        serve(loop, columns, 30, 450)
        made = loop.merge(one.id, other.id, "fisher", weights=(0.5, 0.5))
        assert [loop.home.versions.find(parent).parents for parent in made.parents] == [(one.id,), (other.id,)]
        (shadow,) = with_role(loop.fold.roster, "shadow")
        assert shadow.version == made.id
        serve(loop, columns, 450, 480)
        expected = state(loop)
    with Loop(quiet(challengers=4, model=network), tmp_path / "home") as loop:
        assert state(loop) == expected
