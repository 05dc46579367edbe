"""P(class | features) of the mixtures: against simulation, against numerical integration, and against River."""

from __future__ import annotations

import numpy as np
import pytest
from river.datasets import synth
from scipy import integrate, stats

from everlearn.stream.generated import generate, mixtures


def matrix(stream, after: int = 0, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    columns = stream.generator.columns(after, rows)
    return np.stack([columns[name] for name in stream.generator.names], axis=1), columns["label"]


def test_the_digits_and_the_waves_are_rivers() -> None:
    assert (synth.LED._ORIGINAL_INSTANCES == mixtures.DIGITS).all()
    assert (synth.Waveform._H_FUNCTION == mixtures.WAVES).all()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("led", {"noise": 0.1}),
        ("led", {"noise": 0.2, "shares": (0.3, *[0.7 / 9] * 9)}),
        ("waveform", {}),
        ("waveform", {"shares": (0.6, 0.3, 0.1), "noise": 0.1}),
        ("rbf", {"classes": 3}),
        ("rbf", {"shares": 0.1, "features": 3, "centres": 20}),
        ("rbf", {"noise": 0.2, "change": 0.001}),
        ("sea", {"noise": 0.1, "shares": 0.25}),
    ],
)
def test_the_truth_is_calibrated(kind: str, settings: dict) -> None:
    """Where a class has the probability p, it occurs in the share p of the rows: in bins of p, by simulation."""
    stream = generate(kind, rows=60_000, seed=11, **settings)
    _, y = matrix(stream)
    proba = stream.generator.truth().proba
    assert proba.sum(axis=1) == pytest.approx(1.0)
    for label in range(proba.shape[1]):
        bins = np.minimum((proba[:, label] * 10).astype(int), 9)
        for one in np.unique(bins):
            rows = bins == one
            expected, spread = proba[rows, label].mean(), np.sqrt(0.25 / rows.sum())
            assert (y[rows] == label).mean() == pytest.approx(expected, abs=5 * spread + 1e-9)
    right = (proba.argmax(axis=1) == y).mean()
    assert right == pytest.approx(stream.generator.best()["accuracy"], abs=0.01)


def mixed(share: float, row: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    return float(stats.norm.pdf(row - share * one - (1 - share) * other).prod())


def test_the_density_of_a_waveform_is_the_integral_over_the_mix() -> None:
    x, _ = matrix(generate("waveform", rows=5, seed=2))
    order = np.arange(21)[None, :]
    found = mixtures.waveform(x, order, np.zeros(5, np.int64), np.full(3, 1 / 3))
    for row, proba in zip(x, found, strict=True):
        masses = []
        for one, other in zip(mixtures.FIRST, mixtures.SECOND, strict=True):
            wave = [mixtures.WAVES[one], mixtures.WAVES[other]]
            masses.append(integrate.quad(mixed, 0, 1, (row, *wave), epsabs=0, epsrel=1e-9)[0])
        assert proba == pytest.approx(np.array(masses) / sum(masses), rel=1e-6)


def test_the_known_errors_of_breiman_and_others() -> None:
    assert generate("waveform", rows=100_000).generator.best()["accuracy"] == pytest.approx(0.86, abs=0.01)
    assert generate("led", rows=100_000, noise=0.1).generator.best()["accuracy"] == pytest.approx(0.74, abs=0.005)


def test_an_rbf_draws_points_as_river_does() -> None:
    """The lengths around one centre are normal, and the directions those of a point in a cube."""
    stream = generate("rbf", rows=20_000, features=2, centres=1, seed=4, noise_features=0)
    x, _ = matrix(stream)
    theirs = synth.RandomRBF(seed_model=1, seed_sample=2, n_features=2, n_centroids=1)
    rows = np.array([list(row.values()) for row, _ in theirs.take(20_000)])
    centre = np.array(theirs.centroids[0].centre)
    made = stream.generator._centres()
    mine = (x - made["centres"][0, 0]) / made["spread"][0, 0]
    other = (rows - centre) / theirs.centroids[0].std_dev
    assert stats.ks_2samp(np.linalg.norm(mine, axis=1), np.linalg.norm(other, axis=1)).pvalue > 0.001
    turn, theirs_turn = np.arctan2(mine[:, 1], mine[:, 0]), np.arctan2(other[:, 1], other[:, 0])
    assert stats.ks_2samp(turn, theirs_turn).pvalue > 0.001
    assert stats.kstest(turn, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue < 1e-3  # no circle: corners are likelier


def test_centres_drift_at_the_speed_and_stay_inside() -> None:
    stream = generate("rbf", rows=50_000, features=2, centres=1, change=0.001, seed=4)
    made = stream.generator._centres()
    assert np.linalg.norm(made["velocity"][0, 0]) == pytest.approx(0.001)
    x, _ = matrix(stream)
    middles = x.reshape(50, 1000, 2).mean(axis=1)
    assert middles.min() > -0.1
    assert middles.max() < 1.1
    assert np.ptp(middles, axis=0).min() > 0.5


def test_swapped_features_say_the_same_elsewhere() -> None:
    one = generate("led", rows=500, concepts=(0,), seed=1)
    other = generate("led", rows=500, concepts=(3,), seed=1)
    x, y = matrix(one)
    moved, labels = matrix(other)
    assert (y == labels).all()
    order = mixtures.swapped(other.generator.seed ^ (0x5EED << 16 | 4), 24, 7, 3)
    assert sorted(order) == list(range(24))
    assert (order[:7] != np.arange(7)).sum() == 3
    assert (moved[:, order] == x).all()
