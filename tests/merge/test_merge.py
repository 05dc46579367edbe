"""Merging does what it says: as mergekit, PEFT and closed forms do, with itself, in any order; and errors are told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn

from everlearn import model
from everlearn.errors import ConfigError, ModelError
from everlearn.families import linear
from everlearn.families.linear import merging as linear_merging
from everlearn.merge import METHODS, How, adapters, ema, merge, merged, methods
from everlearn.merge.contents import pooled
from everlearn.records import Arrays, Batch, Floats
from tests.support import DATA

MERGEKIT = json.loads((DATA / "mergekit.json").read_text())
GIVEN = {name[0] if len(name) == 1 else name: np.array(values) for name, values in MERGEKIT["given"].items()}
NUMBERS = st.floats(-100, 100, allow_subnormal=False)
TENSORS = drawn(np.float64, (3, 4), elements=NUMBERS)


# ---- methods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MERGEKIT["cases"], ids=lambda case: f"{case['method']}-{case['parents']}")
def test_as_mergekit(case: dict[str, Any]):
    """mergekit 0.1.5 in float64; `tests/data/mergekit_values.py` asked it."""
    parents = [{"w": GIVEN[name]} for name in case["parents"]]
    dials = {name: case[name] for name in ("density", "scale") if name in case}
    before = {"w": GIVEN["ancestor"]} if METHODS[case["method"]].ancestor else None
    found = merge(case["method"], parents, case["weights"], ancestor=before, **dials)
    np.testing.assert_allclose(found["w"], case["merged"], rtol=1e-12, atol=1e-12)


def test_trimming_as_mergekit():
    np.testing.assert_array_equal(methods.trimmed(GIVEN["a"], 0.4), MERGEKIT["trimmed"])


def test_trimming_keeps_as_many_as_it_says_where_sizes_are_equal():
    kept = methods.trimmed(np.array([1.0, -1.0, 1.0, -1.0, 1.0]), 0.6)
    assert kept.tolist() == [1.0, -1.0, 1.0, 0.0, 0.0]


def ends(method: str) -> dict[str, Any]:
    """The dials with which a method changes nothing that all parents agree on."""
    return {"density": 1.0} if METHODS[method].density else {}


@pytest.mark.parametrize("method", METHODS)
@given(one=TENSORS, before=TENSORS, many=st.integers(2, 4), draws=st.data())
@settings(max_examples=40, deadline=None)
def test_merging_a_snapshot_with_itself_is_the_identity(
    method: str, one: Floats, before: Floats, many: int, draws: Any
):
    found = METHODS[method]
    many = 2 if found.pair or found.weights else many
    raw = draws.draw(st.lists(st.floats(0.01, 10.0), min_size=many, max_size=many))
    weights = [weight / sum(raw) for weight in raw]
    fisher = [{"w": np.abs(before) * weight} for weight in raw] if before.any() else [{"w": np.ones((3, 4))}] * many
    snapshot = {"w": one, "seen": np.array([7, 8])}
    told = {"ancestor": {**snapshot, "w": before}} if found.ancestor else {"fisher": fisher} if found.fisher else {}
    again = merge(method, [snapshot] * many, weights, **told, **ends(method))
    np.testing.assert_allclose(again["w"], one, rtol=1e-9, atol=1e-9)
    assert again["seen"].tolist() == [7, 8]
    assert again["seen"] is not snapshot["seen"]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("ema", "dare")])
@given(a=TENSORS, b=TENSORS, before=TENSORS, sure=drawn(np.float64, (2, 3, 4), elements=st.floats(0.0, 9.0)))
@settings(max_examples=40, deadline=None)
def test_the_order_of_parents_that_count_alike_does_not_matter(
    method: str, a: Floats, b: Floats, before: Floats, sure: Floats
):
    found, sure = METHODS[method], sure + 1e-3
    fishers = [{"w": sure[0]}, {"w": sure[1]}]
    told = {"ancestor": {"w": before}} if found.ancestor else {}
    one = merge(method, [{"w": a}, {"w": b}], **told, **({"fisher": fishers} if found.fisher else {}))
    other = merge(method, [{"w": b}, {"w": a}], **told, **({"fisher": fishers[::-1]} if found.fisher else {}))
    np.testing.assert_allclose(one["w"], other["w"], rtol=1e-9, atol=1e-9)


@given(start=TENSORS, end=TENSORS, share=st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_arc_keeps_the_length_and_ends_where_it_should(start: Floats, end: Floats, share: float):
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if min(lengths) < 1e-3 or abs(np.sum(start * end)) > 0.999 * lengths[0] * lengths[1]:
        return
    start, end = start / lengths[0], end / lengths[1]
    assert np.linalg.norm(methods.slerp(start, end, share)) == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(methods.slerp(start, end, 0.0), start, atol=1e-12)
    np.testing.assert_allclose(methods.slerp(start, end, 1.0), end, atol=1e-12)


def test_where_there_is_no_arc_the_line_is_taken():
    one = np.array([1.0, 2.0])
    np.testing.assert_allclose(methods.slerp(one, 3 * one, 0.25), 1.5 * one)
    np.testing.assert_allclose(methods.slerp(one, -one, 0.25), 0.5 * one)
    np.testing.assert_allclose(methods.slerp(np.zeros(2), one, 0.25), 0.25 * one)


def test_fisher_is_the_mean_of_two_normal_beliefs():
    """Two normal posteriors with precisions F multiply to one whose mean is sum(F x) / sum(F)."""
    draw = np.random.default_rng(0)
    a, b, f, g = draw.normal(size=(4, 50)) ** np.array([[1], [1], [2], [2]])
    f[:5] = g[:5] = 0.0
    f[5:10] = 0.0
    found = merge("fisher", [{"w": a}, {"w": b}], fisher=[{"w": f}, {"w": g}])["w"]
    np.testing.assert_allclose(found[:5], (a + b)[:5] / 2)
    np.testing.assert_allclose(found[5:10], b[5:10])
    np.testing.assert_allclose(found[10:], (f * a + g * b)[10:] / (f + g)[10:])


def test_dropping_keeps_the_mean_and_is_the_same_for_the_same_seed():
    delta = np.linspace(-1, 1, 40).reshape(5, 8)
    draws = np.stack([methods.dropped(delta, 0.3, str(key)) for key in range(4000)])
    assert set(np.unique(np.abs(draws[0] - 0.0) > 0)) == {False, True}
    np.testing.assert_allclose(draws.mean(0), delta, atol=5 * np.sqrt(0.7 / 0.3 / 4000))
    assert abs((draws != 0).mean() - 0.3) < 0.01
    parents, before = [{"w": delta}, {"w": -2 * delta}], {"w": np.zeros((5, 8))}
    one, again, other = (merge("dare", parents, ancestor=before, seed=seed)["w"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_a_moving_average_is_what_the_recursion_says():
    draw = np.random.default_rng(1)
    stream = draw.normal(size=(30, 6)).astype(np.float32)
    average = {"w": stream[0]}
    for one in stream[1:]:
        average = ema(average, {"w": one}, decay=0.9)
    powers = 0.1 * 0.9 ** np.arange(29)[::-1]
    np.testing.assert_allclose(average["w"], 0.9**29 * stream[0] + powers @ stream[1:], rtol=1e-5, atol=1e-6)
    assert average["w"].dtype == np.float32
    given_none = merge("ema", [{"w": np.zeros(1)}, {"w": np.ones(1)}])
    assert given_none["w"][0] == pytest.approx(0.1)


def test_two_weights_of_one_add_what_both_learned():
    """Two models that each moved one number: the sum of both moves is a model that has moved both."""
    before, a, b = np.array([1.0, 1.0, 1.0]), np.array([4.0, 1.0, 1.0]), np.array([1.0, -3.0, 1.0])
    found = merge("task", [{"w": a}, {"w": b}], [1.0, 1.0], ancestor={"w": before})
    assert found["w"].tolist() == [4.0, -3.0, 1.0]
    assert merge("ties", [{"w": a}, {"w": b}], ancestor={"w": before}, density=0.34)["w"].tolist() == [4.0, -3.0, 1.0]


# ---- errors ------------------------------------------------------------------------------------------------------


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
        ([ONE, ONE], ("sum",), ConfigError, "no method 'sum'; expected one of linear, ema, fisher"),
        ([ONE], ("linear",), ConfigError, "linear got 1 parents, expected 2 or more"),
        ([ONE, ONE, ONE], ("slerp",), ConfigError, "slerp got 3 parents, expected 2"),
        ([ONE, ONE], ("linear", [1.0]), ConfigError, "got 1 weights for 2 parents"),
        ([ONE, ONE], ("linear", [1.0, -1.0]), ConfigError, "whose sum is not 0"),
        ([ONE, ONE], ("slerp", [2.0, -1.0]), ConfigError, "finite numbers from 0"),
        ([ONE, ONE], ("linear", [np.nan, 1.0]), ConfigError, "finite numbers"),
        ([ONE, ONE], ("ties",), ConfigError, "common ancestor; name that one"),
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
        ([{"w": np.ones(3)}], "of 1 parents, expected of each of 2"),
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


# ---- adapters ----------------------------------------------------------------------------------------------------


def adapter(seed: int, rank: int = 3, into: int = 7, out: int = 5) -> adapters.Adapter:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rank, into)), draw.normal(size=(out, rank))


A, B = "weights/fc.lora_A.default.weight", "weights/fc.lora_B.default.weight"


def snapshot(seed: int) -> Arrays:
    a, b = adapter(seed)
    return {A: a.astype(np.float32), B: b.astype(np.float32), "weights/fc.bias": np.full(5, float(seed), np.float32)}


def test_adapters_are_merged_as_deltas():
    one, other = snapshot(1), snapshot(2)
    found = merge("linear", [one, other], [0.3, 0.7])
    wanted = 0.3 * adapters.delta(one[A], one[B]) + 0.7 * adapters.delta(other[A], other[B])
    u, s, vt = np.linalg.svd(wanted)
    best = (u[:, :3] * s[:3]) @ vt[:3]
    np.testing.assert_allclose(adapters.delta(found[A], found[B]), best, atol=1e-4)
    assert found["weights/fc.bias"][0] == pytest.approx(1.7)
    factors = adapters.delta(0.3 * one[A] + 0.7 * other[A], 0.3 * one[B] + 0.7 * other[B])
    assert np.linalg.norm(best - wanted) < 0.5 * np.linalg.norm(factors - wanted)


@pytest.mark.parametrize("method", ["linear", "slerp", "task", "ties", "fisher"])
def test_an_adapter_merged_with_itself_has_its_own_factors(method: str):
    one = snapshot(3)
    before = {A: one[A], B: np.zeros_like(one[B]), "weights/fc.bias": one["weights/fc.bias"]}
    told = {"ancestor": before, **ends(method)} if METHODS[method].ancestor else {}
    told |= {"fisher": [{"weights/fc.bias": np.ones(5)}] * 2} if method == "fisher" else {}
    found = merge(method, [one, one], [0.5, 0.5], **told)
    for name in (A, B):
        np.testing.assert_allclose(found[name], one[name], rtol=1e-4, atol=1e-5)


def test_an_adapter_that_has_learned_nothing_is_no_trouble():
    one = snapshot(4)
    fresh = {**one, B: np.zeros_like(one[B])}
    both = merge("linear", [fresh, {**fresh, A: 2 * one[A]}])
    np.testing.assert_array_equal(both[B], 0.0)
    np.testing.assert_allclose(both[A], one[A], rtol=1e-5)
    half = merge("linear", [fresh, one])
    np.testing.assert_allclose(adapters.delta(half[A], half[B]), 0.5 * adapters.delta(one[A], one[B]), atol=1e-4)


@given(seeds=st.lists(st.integers(0, 99), min_size=2, max_size=3), rank=st.integers(1, 4), scale=st.floats(0.1, 4.0))
@settings(max_examples=40, deadline=None)
def test_thin_factors_give_the_best_adapter_of_a_rank(seeds: list[int], rank: int, scale: float):
    held = [adapter(seed, rank=2) for seed in seeds]
    weights = [1.0 + number for number in range(len(held))]
    a, b = adapters.concatenated(held, weights, [scale] * len(held))
    whole = sum(weight * adapters.delta(*one, scale=scale) for weight, one in zip(weights, held, strict=True))
    np.testing.assert_allclose(adapters.delta(a, b), whole, atol=1e-9)
    s = np.linalg.svd(whole, compute_uv=False)
    for made in (adapters.compressed(a, b, rank), adapters.truncated(np.asarray(whole), rank)):
        left = np.linalg.norm(adapters.delta(*made) - whole)
        assert left == pytest.approx(np.sqrt(np.sum(s[rank:] ** 2)), abs=1e-8)
        assert made[0].shape == (rank, 7)


def test_as_peft_and_without_its_fault():
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    net = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(12, 9)), config, "one")
    net.add_adapter("two", config)
    layer = net.base_model.model[0]

    def factors(name: str) -> adapters.Adapter:
        return layer.lora_A[name].weight.detach().double().numpy(), layer.lora_B[name].weight.detach().double().numpy()

    def theirs(how: str, of: list[str], weights: list[float], **more: Any) -> Floats:
        name = f"{how}-{''.join(of)}"
        net.add_weighted_adapter(of, weights, name, combination_type=how, **more)
        return np.asarray(layer.get_delta_weight(name).detach().double().numpy())

    a, b, scale = factors("one"), factors("two"), 6 / 4
    np.testing.assert_allclose(adapters.delta(*a, scale=scale), layer.get_delta_weight("one").detach(), atol=1e-5)
    cat = adapters.concatenated([a, b], [0.3, 0.6], [scale, scale])
    np.testing.assert_allclose(adapters.delta(*cat), theirs("cat", ["one", "two"], [0.3, 0.6]), atol=1e-5)
    svd = theirs("svd", ["one", "two"], [0.3, 0.6], svd_rank=4)
    np.testing.assert_allclose(adapters.delta(*adapters.compressed(*cat, 4)), svd, atol=1e-4)
    own, delta = {A: a[0], B: a[1]}, adapters.delta(*a, scale=scale)
    with_itself = merge("linear", [own, own], [0.5, 0.5])
    np.testing.assert_allclose(adapters.delta(with_itself[A], with_itself[B], scale), delta, atol=1e-9)
    doubled = theirs("linear", ["one", "one"], [0.5, 0.5])  # what PEFT 0.21 makes of it
    np.testing.assert_allclose(doubled, 2 * delta, atol=1e-4)


# ---- networks, by the names of their arrays ----------------------------------------------------------------------


def network(seed: int, rows: int = 100) -> Arrays:
    draw = np.random.default_rng(seed)

    def numbers(*shape: int) -> Any:
        return draw.normal(size=shape).astype(np.float32)

    return {
        "weights/fc.weight": numbers(4, 3),
        "weights/bn.running_mean": numbers(4),
        "weights/bn.running_var": np.square(numbers(4)) * 0.01,
        "weights/bn.num_batches_tracked": np.array(seed, np.int64),
        "learn/raw/fc.weight": numbers(4, 3),
        "learn/raw/bn.running_var": np.square(numbers(4)) * 0.01,
        "learn/optimizer/fc.weight/exp_avg": numbers(4, 3),
        "learn/terms/0-replay/x": numbers(2),
        "learn/terms/1-ewc/fisher/fc.weight": np.square(numbers(4, 3)),
        "learn/terms/1-ewc/anchor/fc.weight": numbers(4, 3),
        "learn/counts": np.array([rows, rows // 10]),
        "inputs/moments": np.stack(
            [np.full(3, float(rows)), 0.1 * numbers(3), rows * np.square(1.0 + 0.1 * numbers(3))]
        ).astype(float),
        "classes": np.array([rows, 0, 0]) if seed % 2 else np.array([1, rows, 0]),
        "head/means": np.eye(3, 5, dtype=np.float32) * np.array([[1], [seed % 2 == 0], [0]], np.float32),
        "head/held": np.array([3, 3 * (seed % 2 == 0), 0]),
    }


SPEC = {"family": "neural"}


@pytest.mark.parametrize("method", METHODS)
def test_of_a_network_what_serves_and_what_is_trained_is_merged(method: str):
    one, other, before = network(1), network(2, 300), network(3)
    told = {"ancestor": before} if METHODS[method].ancestor else {}
    found = merge(method, [one, other], [0.25, 0.75], spec=SPEC, **told)
    assert model.compare(one, found) == []
    how = {name: array for name, array in found.items() if name.endswith("fc.weight") and "terms" not in name}
    for name in ("weights/fc.weight", "learn/raw/fc.weight"):
        assert (how[name] != one[name]).any()
    for name in found:
        if name.startswith("learn/") and not name.startswith("learn/raw/"):
            np.testing.assert_array_equal(found[name], one[name])
    for name in ("weights/bn.running_mean", "weights/bn.running_var", "learn/raw/bn.running_var"):
        np.testing.assert_allclose(found[name], 0.25 * one[name] + 0.75 * other[name], rtol=1e-5)
    assert found["weights/bn.num_batches_tracked"] == 1
    assert found["classes"].tolist() == [100, 300, 0]
    np.testing.assert_allclose(found["head/means"], np.eye(3, 5) * [[1], [1], [0]])
    assert found["head/held"].tolist() == [3, 3, 0]
    pool = pooled([one["inputs/moments"], other["inputs/moments"]], np.array([0.25, 0.75]))
    np.testing.assert_allclose(found["inputs/moments"], pool)


@pytest.mark.parametrize("method", METHODS)
def test_shares_of_classes_stay_shares(method: str):
    """A share that both have lost since the ancestor would be below 0 by task arithmetic, and its logarithm NaN."""
    priors = ([0.1, 0.6, 0.3], [0.0, 0.5, 0.5], [0.8, 0.1, 0.1])
    one, other, before = (network(seed) | {"prior": np.array(prior)} for seed, prior in enumerate(priors, 1))
    told = {"ancestor": before, "scale": 2.0} if METHODS[method].ancestor else {}
    weights = [2.0, -1.0] if METHODS[method].signed else [3.0, 1.0]
    found = merge(method, [one, other], weights, spec=SPEC, **told)["prior"]
    np.testing.assert_allclose(found, [0.05, 0.55, 0.4] if METHODS[method].signed else [0.075, 0.575, 0.35])
    none = [each | {"prior": np.zeros(0)} for each in (one, other)]
    ancestor = {"ancestor": before | {"prior": np.zeros(0)}} if told else {}
    assert merge(method, none, weights, spec=SPEC, **ancestor)["prior"].shape == (0,)


def test_numbers_that_would_not_be_finite_are_refused():
    one, before = {"w": np.full(3, 3e38, np.float32)}, {"w": np.zeros(3, np.float32)}
    with pytest.raises(ModelError, match=r"task with the weights \(1.0, 1.0\) makes numbers .* not finite in w"):
        merge("task", [one, {"w": one["w"] / 2}], [1.0, 1.0], ancestor=before)
    broken, other = network(1), network(2)
    broken["inputs/moments"][1, 0] = np.nan
    with pytest.raises(ModelError, match="not finite in inputs/moments"):
        merge("linear", [broken, other], spec=SPEC)


def moments(rows: float, mean: float, deviation: float) -> Floats:
    return np.array([[rows, rows], [0.0, mean], [rows, rows * deviation**2]])


@pytest.mark.parametrize("method", ["linear", "task"])
@pytest.mark.parametrize(
    ("mean", "deviation", "fits"),
    [(1.0, 1.0, True), (-1.2, 1.0, False), (0.0, 2.4, True), (0.0, 2.8, False), (0.0, 0.35, False), (9.0, 0.0, False)],
)
def test_networks_that_standardise_otherwise_are_not_merged(method: str, mean: float, deviation: float, fits: bool):
    one, other = network(1) | {"inputs/moments": moments(50, 0, 1)}, network(2)
    other["inputs/moments"] = moments(50, mean, deviation)
    told: dict[str, Any] = {"spec": SPEC | {"dense": 2}, "ancestor": network(3) | {"inputs/moments": np.zeros((3, 2))}}
    if fits:
        merge(method, [one, other], **told)
        return
    with pytest.raises(ModelError, match=r"deviation of column 1 are .* trained with 'normalize': False"):
        merge(method, [one, other], **told)
    with pytest.raises(ModelError, match="deviation of the number to predict are"):
        merge(method, [one, other], **told | {"spec": SPEC | {"dense": 1}})
    merge(method, [one, other], [1.0, 0.0], **told)  # nothing is taken of the other
    unread = other | {"inputs/moments": np.array([[50.0, 0.0], [0.0, 0.0], [50.0, 0.0]])}
    merge(method, [one, unread], **told)  # it has never seen that column


def test_a_network_brings_its_own_fisher_information():
    one, other = network(1), network(2)
    for each in (one, other):  # of several terms, the first
        each["learn/terms/10-ewc/fisher/fc.weight"] = np.ones_like(each["weights/fc.weight"])
    found = merge("fisher", [one, other], spec=SPEC)
    f, g = (each["learn/terms/1-ewc/fisher/fc.weight"].astype(float) for each in (one, other))
    for place in ("weights/fc.weight", "learn/raw/fc.weight"):
        np.testing.assert_allclose(found[place], (f * one[place] + g * other[place]) / (f + g), rtol=1e-4)
    one["learn/terms/1-ewc/fisher/fc.weight"][:] = 0
    with pytest.raises(ModelError, match="parent 1 is 0 everywhere: nothing was consolidated yet"):
        merge("fisher", [one, other], spec=SPEC)


def test_networks_on_other_frozen_weights_are_not_merged():
    one, other = network(1) | {"base": np.zeros(32, np.uint8)}, network(2) | {"base": np.ones(32, np.uint8)}
    with pytest.raises(ModelError, match="have different fixed weights"):
        merge("linear", [one, other], spec=SPEC)


def test_networks_whose_units_stand_in_another_order_lose_by_merging():
    """The same function twice, its hidden units permuted: each parent is right, and their mean is far off."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(200, 6))
    into, out, order = draw.normal(size=(32, 6)), draw.normal(size=(1, 32)), draw.permutation(32)

    def said(arrays: Arrays) -> Floats:
        return np.asarray(np.maximum(x @ arrays["into"].T, 0.0) @ arrays["out"].T)

    one, other = {"into": into, "out": out}, {"into": into[order], "out": out[:, order]}
    np.testing.assert_allclose(said(one), said(other), atol=1e-9)
    spread = said(one).std()
    for method in ("linear", "slerp"):
        assert (said(merge(method, [one, other])) - said(one)).std() > 0.5 * spread


# ---- linear models -----------------------------------------------------------------------------------------------

OPTIMIZERS = ("auto", "sgd", "adagrad", "adam", "ftrl", "normalized")


def rows(n: int, seed: int, shift: float = 0.0, stretch: float = 1.0) -> tuple[Batch, Floats]:
    """Rows with 3 dense columns and 2 hashed entries each, and the number that a linear rule gives them."""
    draw = np.random.default_rng(seed)
    dense = (shift + stretch * draw.normal(size=(n, 3)) * [1.0, 5.0, 0.2]).astype(np.float32)
    indices = draw.integers(0, 64, size=2 * n).astype(np.int32)
    y = dense @ [1.0, -0.3, 2.0] + 0.5 + 0.3 * (indices.reshape(n, 2) % 3 - 1).sum(axis=1)
    return Batch(dense, np.arange(0, 2 * n + 1, 2, dtype=np.int64), indices, np.ones(2 * n, np.float32)), y


def trained(spec: dict[str, Any], seed: int, n: int = 4000, **how: float) -> linear.Linear:
    found = linear.build({"dense": 3, "hashed": 64, **spec})
    batch, y = rows(n, seed, **how)
    if spec["task"] == "binary":
        y = (y > 0.5).astype(float)
    elif spec["task"] == "multiclass":
        y = np.digitize(y, [-1.0, 1.0]).astype(float)
    found.learn(batch, y, np.ones(n, np.float32))
    return found


def margins(one: linear.Linear, batch: Batch) -> Floats:
    said = one.predict(batch).astype(np.float64)
    if one.spec["task"] == "binary":
        return np.asarray(np.log(said[:, 1:]) - np.log(said[:, :1]))
    if one.spec["task"] == "multiclass":
        logs = np.log(said)
        return np.asarray(logs - logs.mean(axis=1, keepdims=True))
    return said


CASES = [
    *({"task": "binary", "optimizer": one} for one in OPTIMIZERS),
    {"task": "multiclass", "classes": 3},
    {"task": "regression"},
    {"task": "regression", "optimizer": "sgd", "rate": 0.01},
    {"task": "binary", "interactions": "dense"},
    {"task": "regression", "interactions": "dense"},
    {"task": "binary", "standardize": False, "optimizer": "adagrad"},
    {"task": "binary", "optimizer": "ftrl", "l1": 0.5, "l2": 0.1},
]


@pytest.mark.parametrize("spec", CASES, ids=lambda spec: "-".join(map(str, spec.values())))
def test_a_merged_linear_model_says_the_mean_of_what_its_parents_say(spec: dict[str, Any]):
    """Though their columns, and their numbers to predict, have other means and deviations."""
    one, other = trained(spec, 1), trained(spec, 2, shift=0.4, stretch=1.3)
    both = linear.build(one.spec)
    model.restore(both, merge("linear", [one.arrays, other.arrays], [0.3, 0.7], spec=one.spec))
    batch, _ = rows(300, 3, shift=0.2, stretch=0.4)
    wanted = 0.3 * margins(one, batch) + 0.7 * margins(other, batch)
    spread = wanted.std()
    np.testing.assert_allclose(margins(both, batch), wanted, atol=0.02 * spread + 1e-4)
    naive = linear.build(one.spec)
    model.restore(naive, merge("linear", [one.arrays, other.arrays], [0.3, 0.7]))
    if spec.get("standardize", True):
        assert np.abs(margins(naive, batch) - wanted).max() > 2 * np.abs(margins(both, batch) - wanted).max()


@pytest.mark.parametrize("spec", CASES, ids=lambda spec: "-".join(map(str, spec.values())))
@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_merged_with_itself_is_itself(spec: dict[str, Any], method: str):
    if method == "fisher" and spec.get("optimizer") == "sgd":
        return  # which keeps none
    one, before = trained(spec, 1, 500), trained(spec, 1, 100)
    told = {"ancestor": before.arrays, **ends(method)} if METHODS[method].ancestor else {}
    again = merge(method, [one.arrays, one.arrays], spec=one.spec, **told)
    for name, array in one.arrays.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_was_merged_learns_on_from_there(optimizer: str):
    """One more row moves it a little, and does not throw it back to what a parent had been."""
    spec = {"task": "binary", "optimizer": optimizer}
    one, other = trained(spec, 1), trained({**spec}, 2, 40, shift=0.4)
    both = linear.build(one.spec)
    model.restore(both, merge("linear", [one.arrays, other.arrays], spec=one.spec))
    batch, y = rows(200, 4)
    before = margins(both, batch)
    both.learn(
        *((Batch(batch.dense[:1], batch.indptr[:2], batch.indices, batch.values)), (y[:1] > 0.5).astype(float)),
        np.ones(1, np.float32),
    )
    assert np.abs(margins(both, batch) - before).mean() < 0.2 * np.abs(before).mean()


def test_a_constant_or_empty_column_is_no_trouble():
    one, other = (linear.build({"task": "binary", "dense": 2}) for _ in range(2))
    batch, y = rows(200, 1)
    for number, each in enumerate((one, other)):
        dense = np.stack([batch.dense[:, 0], np.full(200, 3.0 if number else np.nan)], axis=1).astype(np.float32)
        plain = Batch(dense, np.zeros(201, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        each.learn(plain, (y > 0.5).astype(float), np.ones(200, np.float32))
    found = merge("linear", [one.arrays, other.arrays], spec=one.spec)
    assert all(np.isfinite(array).all() for array in found.values())


def test_the_fisher_information_of_a_linear_model_is_its_sum_of_squared_gradients():
    one = linear.build({"task": "binary", "dense": 1, "hashed": 4, "optimizer": "adagrad", "standardize": False})
    dense, indices = np.array([[2.0], [1.0]], np.float32), np.array([1, 2], np.int32)
    batch = Batch(dense, np.array([0, 1, 2]), indices, np.ones(2, np.float32))
    said = one.learn(batch, np.array([1.0, 0.0]), np.ones(2, np.float32))
    slopes = said[:, 1] - [1.0, 0.0]
    found = linear_merging.fisher(one.spec, one.arrays)
    assert found is not None
    np.testing.assert_allclose(found["weights"][0], [np.sum((slopes * [2.0, 1.0]) ** 2), np.sum(slopes**2)], rtol=1e-6)
    np.testing.assert_allclose(found["hashed"][:, 0], [0.0, slopes[0] ** 2, slopes[1] ** 2, 0.0], rtol=1e-5)
    assert (
        linear_merging.fisher(
            linear.build({"task": "binary", "dense": 1, "optimizer": "sgd"}).spec,
            {"weights": np.zeros((1, 1, 2)), "hashed": np.zeros((0, 1, 1), np.float32)},
        )
        is None
    )


def test_by_fisher_a_model_keeps_what_only_one_parent_has_seen():
    """Two models of other hashed entries: their mean halves every weight, by Fisher each keeps its own."""
    spec = {"task": "binary", "dense": 0, "hashed": 64}
    draw, parents = np.random.default_rng(0), []
    for half in (0, 32):
        one = linear.build(spec)
        indices = (half + draw.integers(0, 32, 3000)).astype(np.int32)
        batch = Batch(np.zeros((3000, 0), np.float32), np.arange(3001), indices, np.ones(3000, np.float32))
        one.learn(batch, (indices % 2).astype(float), np.ones(3000, np.float32))
        parents.append(one.arrays)
    indices = np.arange(64, dtype=np.int32)
    batch = Batch(np.zeros((64, 0), np.float32), np.arange(65), indices, np.ones(64, np.float32))
    sure = {}
    for method in ("linear", "fisher"):
        both = linear.build(spec)
        model.restore(both, merge(method, parents, spec=both.spec))
        sure[method] = both.predict(batch)[np.arange(64), indices % 2]
    assert (sure["fisher"] > 0.5).all()
    assert sure["fisher"].mean() > sure["linear"].mean() + 0.05


def test_models_are_merged_where_they_differ_in_how_they_learn_alone():
    one, other = trained({"task": "binary"}, 1, 200), trained({"task": "binary", "rate": 0.2, "l2": 1e-4}, 2, 200)
    assert model.compare(one.arrays, merged(How(method="linear"), [one, other])) == []
    odd = trained({"task": "binary", "standardize": False}, 1, 200)
    with pytest.raises(ModelError, match="standardize is True in one and False in another"):
        merged(How(method="linear"), [one, odd])
    with pytest.raises(ModelError, match="families are 'linear' and 'neural'"):
        merged(How(method="linear"), [one, _As(one, {"family": "neural"})])


class _As:
    """A model that says it is another."""

    def __init__(self, one: Any, spec: dict[str, Any]) -> None:
        self.spec, self.arrays, self.predict, self.learn = spec, one.arrays, one.predict, one.learn


def test_how_travels_as_plain_values():
    how = How(method="ties", weights=(1.0, 2.0), density=0.3)
    assert msgspec.convert(msgspec.to_builtins(how), How) == how
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"method": "ties", "power": 2}, How)
