"""False alarms and delays of the drift detectors: ours and River's on the same streams.

    python bench/drift.py            # the tables in docs/why/drift.md, about two minutes
    python bench/drift.py --runs 5   # faster and rougher

False alarms are counted on stable streams of 20,000 values. Delay is the median number of values from a step to the
first report, over runs of 10,000 values with the step in the middle ("-": not found in half the runs). River's
detectors use their defaults; its DDM accepts only errors (0 or 1), as in its paper. River's delays are left out: with
frequent false alarms, a delay has no meaning.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from river import drift as river
from scipy.signal import lfilter

from everlearn import drift
from everlearn.drift import detectors
from everlearn.spec import DriftSpec

World = Callable[[np.random.Generator, int], np.ndarray]
DETECTORS = ("adwin", "page_hinkley", "ddm", "kswin")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def autoregressive(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
    """Return an AR(1) series with mean 0, deviation 1 and correlation `phi` between neighbours."""
    noise = rng.standard_normal(n)
    noise[0] /= np.sqrt(1 - phi * phi)
    return lfilter([np.sqrt(1 - phi * phi)], [1, -phi], noise)


def wandering_errors(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return errors whose rate drifts slowly around 0.2 over hundreds of examples."""
    return (rng.random(n) < 1 / (1 + np.exp(1.4 - 0.7 * autoregressive(rng, n, 0.99)))).astype(float)


STABLE: dict[str, World] = {
    "independent, normal": lambda rng, n: rng.standard_normal(n),
    "AR(1) 0.5": lambda rng, n: autoregressive(rng, n, 0.5),
    "AR(1) 0.9": lambda rng, n: autoregressive(rng, n, 0.9),
    "AR(1) 0.99": lambda rng, n: autoregressive(rng, n, 0.99),
    "errors, rate 0.3": lambda rng, n: (rng.random(n) < 0.3).astype(float),
    "errors, rate 0.01": lambda rng, n: (rng.random(n) < 0.01).astype(float),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "Student, 3 degrees": lambda rng, n: rng.standard_t(3, n),
    "daily cycle of 48": lambda rng, n: np.sin(np.arange(n) * 2 * np.pi / 48) + rng.standard_normal(n),
    "errors, rate wanders": wandering_errors,
}
STEPS: dict[str, tuple[World, tuple[float, ...]]] = {
    "independent, normal": (STABLE["independent, normal"], (0.25, 0.5, 1.0, 2.0)),
    "AR(1) 0.5": (STABLE["AR(1) 0.5"], (0.5, 1.0, 2.0)),
    "AR(1) 0.9": (STABLE["AR(1) 0.9"], (0.5, 1.0, 2.0)),
    "error rate from 0.1": (lambda rng, n: (rng.random(n) < 0.1).astype(float), (0.15, 0.2, 0.3, 0.5)),
}


def ours(detector: str, watch: str, values: np.ndarray, seed: int) -> np.ndarray:
    """Return the indices at which our detector, with its defaults, reports drift."""
    spec = DriftSpec(detector=detector, watch=watch)
    return np.flatnonzero(drift.update(drift.start(spec, seed), spec, values) == 2)


def theirs(detector: str, values: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the indices at which River's detector reports drift by default; None for values that it does not
    accept.
    """
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    if detector == "ddm" and not binary:
        return None
    makers = {
        "adwin": river.ADWIN,
        "page_hinkley": river.PageHinkley,
        "ddm": river.binary.DDM,
        "kswin": lambda: river.KSWIN(seed=seed),
    }
    peer, found = makers[detector](), []
    for i, value in enumerate(values.tolist()):
        peer.update(value)
        if peer.drift_detected:
            found.append(i)
    return np.array(found, int)


def table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|---" + "|--:" * (len(head) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def false_alarms(runs: int, peers: int) -> None:
    """Print the false alarms; River is slow, so it gets fewer streams (`peers`), and KSWIN a tenth of one."""
    rows = []
    for name, world in STABLE.items():
        row = [name]
        for detector in DETECTORS:
            mine = [ours(detector, "inputs", world(np.random.default_rng(k), 20_000), k) for k in range(runs)]
            row.append(f"{np.mean([len(found) for found in mine]):.2f}")
            length = 2_000 if detector == "kswin" else 20_000
            peer = [theirs(detector, world(np.random.default_rng(k), length), k) for k in range(peers)]
            counts = [len(found) * 20_000 / length for found in peer if found is not None]
            row.append(f"{np.mean(counts):.1f}" if counts else "")
        rows.append(row)
    table(["false alarms in 20,000 values", *(f"{d}, {side}" for d in DETECTORS for side in ("ours", "River"))], rows)


def median_delay(found: list[np.ndarray]) -> str:
    first = [next((i - 5000 for i in reports if i >= 5000), np.inf) for reports in found]
    middle = float(np.median(first))
    return f"{middle:.0f}" if np.isfinite(middle) else "-"


def delays(runs: int) -> None:
    rows = []
    for name, (world, sizes) in STEPS.items():
        for size in sizes:
            streams = []
            for k in range(runs):
                rng = np.random.default_rng(1000 + k)
                values = world(rng, 10_000)
                values[5000:] = (rng.random(5000) < size) if name.startswith("error") else values[5000:] + size
                streams.append(values)
            found = [[ours(detector, "loss", values, k) for k, values in enumerate(streams)] for detector in DETECTORS]
            name_of_step = f"{name}{' to' if name.startswith('error') else ', step'} {size:g}"
            rows.append([name_of_step, *map(median_delay, found)])
    table(["median delay of a report, ours", *DETECTORS], rows)


def fading() -> None:
    """Show that River's Page-Hinkley must fire on a long stream: it forgets its sums but keeps their extremes."""
    values = np.random.default_rng(0).standard_normal(200_000)
    for forgetting in (1 - 0.0001, 1.0):
        sums, alarms = np.zeros(6), 0
        detectors.page_hinkley_reset(sums, np.inf, -1.0)
        for value in values:
            if abs(detectors.page_hinkley_step(sums, value, 30, 0.1, np.inf, 50.0, forgetting)) == 2:
                alarms += 1
                detectors.page_hinkley_reset(sums, np.inf, -1.0)
        print(
            f"Page-Hinkley, delta 0.1, threshold 50, forgetting {forgetting}: {alarms} false alarms in 200,000 values"
        )
    print()


def electricity() -> None:
    """Report drift in the squared errors of a model frozen after the first tenth of Elec2."""
    path = DATA / "elec2.parquet"
    if not path.exists():
        print(f"no {path}: the real stream is left out")
        return
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    frame = pd.read_parquet(path)
    x, y = frame.drop(columns="label").to_numpy(float), frame["label"].to_numpy()
    y = (y == y[0]).astype(float)
    tenth = len(y) // 10
    scale = StandardScaler().fit(x[:tenth])
    model = LogisticRegression().fit(scale.transform(x[:tenth]), y[:tenth])
    loss = (model.predict_proba(scale.transform(x))[:, 1] - y) ** 2
    for detector in DETECTORS:
        found = ours(detector, "loss", loss, 0)
        peer = theirs(detector, loss, 0)
        print(f"Elec2, frozen model: {detector} reports {len(found)} drifts", end="")
        print("" if peer is None else f", River's {len(peer)}")


def speed() -> None:
    values = np.random.default_rng(0).random(1_000_000)
    for detector in DETECTORS:
        begin = time.perf_counter()
        ours(detector, "loss", values, 0)
        mine = len(values) / (time.perf_counter() - begin)
        part = values[:2000] if detector == "kswin" else (values[:50_000] > 0.5).astype(float)
        begin = time.perf_counter()
        theirs(detector, part, 0)
        rate = len(part) / (time.perf_counter() - begin)
        print(f"{detector}: {mine / 1e6:.1f} million values a second, {mine / rate:.0f} times River's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="streams for each figure of ours")
    parser.add_argument("--peers", type=int, default=3, help="streams for each figure of River's")
    chosen = parser.parse_args()
    false_alarms(chosen.runs, chosen.peers)
    delays(chosen.runs)
    fading()
    electricity()
    speed()


if __name__ == "__main__":
    main()
