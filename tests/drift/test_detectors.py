"""The published detectors against River's, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift as river_drift
from scipy import stats

from everlearn.drift import detectors
from tests.support import SHARED
from tests.support.series import rng

DATA = SHARED


def elec2() -> np.ndarray:
    """Return a real stream with drift and a daily cycle: the electricity price of New South Wales."""
    path = DATA / "elec2.parquet"
    if not path.exists():
        pytest.skip(f"no {path}: set EVERLEARN_DATA to the folder that holds elec2.parquet")
    import pandas as pd

    frame = pd.read_parquet(path)
    return frame[next(name for name in frame.columns if "price" in name.lower())].to_numpy(np.float64)


STREAMS = {
    "steps": lambda: rng(1).standard_normal(9000) * 0.3 + np.repeat([0.0, 1.0, 0.2], 3000),
    "bernoulli": lambda: (rng(2).random(9000) < np.repeat([0.1, 0.4, 0.25], 3000)).astype(float),
    "ramp": lambda: rng(3).random(9000) + np.linspace(0.0, 2.0, 9000),
    "heavy": lambda: np.abs(rng(4).standard_t(2, 9000)),
    "constant": lambda: np.repeat([0.5, 0.75], 2000),
    "elec2": elec2,
}


@pytest.fixture(params=sorted(STREAMS))
def stream(request: pytest.FixtureRequest) -> np.ndarray:
    return STREAMS[request.param]()


def bernoulli(stream: np.ndarray) -> np.ndarray:
    return (stream > np.median(stream[:1000]) + 0.2).astype(float)


def found_by_river(detector: object, values: np.ndarray) -> list[int]:
    found = []
    for i, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append(i)
    return found


@pytest.mark.parametrize(
    ("delta", "threshold", "mode"), [(0.005, 50.0, "both"), (0.02, 8.0, "both"), (0.1, 3.0, "both")]
)
def test_page_hinkley_detects_where_river_does(stream: np.ndarray, delta: float, threshold: float, mode: str) -> None:
    theirs = found_by_river(river_drift.PageHinkley(delta=delta, threshold=threshold, mode=mode), stream)
    sums = np.zeros(6)
    detectors.page_hinkley_reset(sums, math.inf, -1.0)
    ours = []
    for i, value in enumerate(stream):
        if abs(detectors.page_hinkley_step(sums, value, 30, delta, math.inf, threshold, 1 - 0.0001)) == 2:
            ours.append(i)
            detectors.page_hinkley_reset(sums, math.inf, -1.0)
    assert ours == theirs


def new_window(rows: int = 32, most: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    window = (np.zeros((rows, 2, most + 1)), np.zeros(rows + 1, np.int64), np.zeros(6))
    detectors.adwin_reset(*window)
    return window


@pytest.mark.parametrize(
    ("delta", "clock", "most", "shortest", "grace"), [(0.002, 32, 5, 5, 10), (0.05, 1, 3, 5, 10), (0.3, 7, 8, 20, 100)]
)
def test_adwin_detects_where_river_does(
    stream: np.ndarray, delta: float, clock: int, most: int, shortest: int, grace: int
) -> None:
    theirs = river_drift.ADWIN(delta, clock, most, shortest, grace)
    found = found_by_river(theirs, stream)
    window, ours = new_window(most=most), []
    for i, value in enumerate(stream):
        if abs(detectors.adwin_step(*window, value, delta, delta, clock, shortest, grace, 1.0)) == 2:
            ours.append(i)
            if i + 1 < len(stream):
                detectors.adwin_reset(*window)
    assert ours == found
    assert window[2][0] == theirs.width
    assert window[2][1] == pytest.approx(theirs.total, rel=1e-12, abs=1e-12)


def test_ddm_detects_and_warns_where_river_does(stream: np.ndarray) -> None:
    theirs, warned, errors = river_drift.binary.DDM(), [], bernoulli(stream)
    found = []
    for i, value in enumerate(errors):
        theirs.update(value)
        if theirs.drift_detected:
            found.append(i)
        if theirs.warning_detected:
            warned.append(i)
    sums, levels = np.zeros(6), []
    detectors.ddm_reset(sums)
    for value in errors:
        levels.append(detectors.ddm_step(sums, value, 30, 2.0, 3.0, -1.0))
        if levels[-1] == 2:
            detectors.ddm_reset(sums)
    assert np.flatnonzero(np.array(levels) == 2).tolist() == found
    assert np.flatnonzero(np.array(levels) == 1).tolist() == warned


def test_kswin_detects_where_river_does_when_the_draw_takes_everything(stream: np.ndarray) -> None:
    """With a window of twice the sample both draws hold the whole older half, whatever the random numbers are."""
    stream = stream[:6000]
    found = found_by_river(river_drift.KSWIN(alpha=0.001, window_size=80, stat_size=40, seed=1), stream)
    ring, sums, ours = np.zeros(80), np.zeros(2), []
    for i, value in enumerate(stream):
        if abs(detectors.kswin_step(ring, sums, value, 40, 80, 1, 0.001, 0.001, 0)) == 2:
            ours.append(i)
            sums[:] = 0.0
    assert ours == found


@settings(deadline=None)  # the first example may have to compile
@given(st.integers(2, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_ks_distance_is_scipys_and_its_probability_counts_paths(size: int, key: int, ties: bool) -> None:
    """Two samples merged in order are a path on a grid; the gap stays small where the path keeps near the diagonal.

    SciPy's own exact p-value is compared where it does not round to above one and fall back with a warning.
    """
    first, second = rng(key).standard_normal(size), rng(key, 1).standard_normal(size) + 0.5
    if ties:
        first, second = np.round(first), np.round(second)
    gap = detectors.ks_distance(first.copy(), second.copy())
    theirs = stats.ks_2samp(first, second, method="asymp")
    assert gap == round(theirs.statistic * size)
    near = [[0] * (size + 1) for _ in range(size + 1)]
    for i in range(size + 1):
        for j in range(max(0, i - gap + 1), min(size, i + gap - 1) + 1):
            near[i][j] = 1 if i == j == 0 else (near[i - 1][j] if i else 0) + (near[i][j - 1] if j else 0)
    chance = 1.0 - near[size][size] / math.comb(2 * size, size)
    assert detectors.ks_probability(gap, size) == pytest.approx(chance, rel=1e-9, abs=1e-12)
    if chance < 0.9:
        assert chance == pytest.approx(stats.ks_2samp(first, second, method="exact").pvalue, rel=1e-9, abs=1e-12)


def test_the_random_choice_of_kswin_is_uniform() -> None:
    """Chi-square over 50 slots; this fails for one seed in 1,000 if the choice is fair, and the seed is fixed."""
    draws = np.array([detectors.uniform(3, count, draw) for count in range(2000) for draw in range(10)])
    counts = np.bincount((draws * 50).astype(int), minlength=50)
    assert stats.chisquare(counts).pvalue > 0.001


def test_adwin_keeps_a_bounded_window_when_its_rows_run_out() -> None:
    window = new_window(rows=3)
    for value in rng(5).random(5000):
        detectors.adwin_step(*window, value, 0.002, 0.02, 32, 5.0, 10.0, 1.0)
    held = [window[1][row] for row in range(3)]
    assert window[2][0] == sum(count << row for row, count in enumerate(held)) <= 5 * 7
    assert window[2][1] == pytest.approx(window[0][:, 0].sum())
