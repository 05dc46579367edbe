"""How good the clusters of a stream are, window by window: the silhouette, and the agreement with labels.

    cluster(model, stream) -> ClusterReport

Each row is assigned before it is learned. Windows are judged apart, since the numbers of clusters may change places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.evaluate.scoring import model_of, pieces
from everlearn.model import Model
from everlearn.records import Examples, Floats, Ints
from everlearn.schema import shape
from everlearn.stream import Stream

_SAMPLE = 500  # rows of a window whose silhouette is computed: its cost is quadratic


@dataclass(frozen=True)
class ClusterReport:
    """The clusters of a stream, judged in windows of `window` rows.

    `metrics` has the means over all windows: "silhouette", in [-1, 1], and "ari", the adjusted Rand index with the
    labels (1: the same sets of rows; 0: as by chance; NaN for a regression). `curve` has `x`, the last row of each
    window, and both metrics. `sizes` float64 (clusters,) are the shares of the clusters in all rows.
    """

    name: str
    window: int
    rows: int
    metrics: dict[str, float]
    sizes: Floats
    curve: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)


def cluster(
    model: Model | Mapping[str, Any] | str, stream: Stream | Examples | Iterable[Examples], *, window: int = 1000
) -> ClusterReport:
    """Assign each row of a stream to a cluster before the model learns it, and judge each window of rows.

    The cluster of a row is the likeliest class of the model. A spec without `classes` has as many clusters as the
    stream has classes. The silhouette is that of at most 500 rows of a window, evenly chosen, by their numbers divided
    by the window's deviations. Raises `InputError` for a window below 10 rows.

    >>> from everlearn.stream.generated import generate
    >>> report = cluster({"family": "kmeans", "classes": 3}, generate("waveform", rows=3000, noise_features=0))
    >>> len(report.curve["x"]), report.metrics["ari"] > 0.1
    (3, True)
    """
    if window < 10:
        raise InputError(f"cluster: window: got {window}; expected at least 10 rows")
    bounds: dict[str, Any] = {}
    if isinstance(stream, Stream):
        bounds = shape(stream.schema)
        if bounds["task"] != "multiclass" and isinstance(model, str | Mapping):
            bounds |= {"task": "multiclass"}
    built = model_of(model, bounds)
    found: dict[str, list[float]] = {"x": [], "silhouette": [], "ari": []}
    sizes, rows, labelled = np.zeros(int(built.spec["classes"])), 0, bounds.get("classes") != 0
    name = stream.name if isinstance(stream, Stream) else "examples"
    for examples, _ in pieces(stream, window, ""):
        clusters = built.learn(examples.batch, examples.y, examples.weight).argmax(axis=1)
        sizes += np.bincount(clusters, minlength=len(sizes))
        rows += len(clusters)
        if len(clusters) < 10:
            continue  # the rest of a stream
        found["x"].append(rows)
        every = slice(None, None, max(-(-len(clusters) // _SAMPLE), 1))
        found["silhouette"].append(silhouette(examples.batch.dense[every], clusters[every]))
        found["ari"].append(adjusted_rand_index(clusters, examples.y) if labelled else np.nan)
    curve = {metric: np.array(values) for metric, values in found.items()}
    means = {metric: _mean(curve[metric]) for metric in ("silhouette", "ari")}
    return ClusterReport(name, window, rows, means, sizes / max(rows, 1), curve)


def silhouette(x: NDArray[Any], clusters: Ints) -> float:
    """Return the mean silhouette (Rousseeuw 1987) of rows (n, d), in deviations of each column; NaN of one cluster.

    A missing number counts as the mean. The silhouette of a row alone in its cluster is 0.

    >>> silhouette(np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1])) > 0.8
    True
    """
    names, owner = np.unique(clusters, return_inverse=True)
    if len(names) < 2 or x.shape[1] == 0 or len(names) == len(x):
        return float("nan")
    values = np.asarray(x, np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    values = np.where(known, values - mean, 0.0)
    spread = np.sqrt((values**2).sum(axis=0) / count)
    values = values / np.where(spread > 0.0, spread, 1.0)
    squares = (values**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * values @ values.T, 0.0))
    np.fill_diagonal(distance, 0.0)
    members = np.eye(len(names))[owner]
    sums, sizes = distance @ members, members.sum(axis=0)
    row = np.arange(len(x))
    own = sums[row, owner] / np.maximum(sizes[owner] - 1.0, 1.0)
    others = sums / sizes
    others[row, owner] = np.inf
    other = others.min(axis=1)
    highest = np.maximum(np.maximum(own, other), 1e-300)
    return float(np.where(sizes[owner] > 1, (other - own) / highest, 0.0).mean())


def adjusted_rand_index(clusters: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the adjusted Rand index (Hubert and Arabie 1985) of clusters and labels (n,); NaN labels are left out.

    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([5.0, 5.0, 2.0, 2.0]))
    1.0
    """
    known = np.isfinite(labels)
    _, first = np.unique(clusters[known], return_inverse=True)
    _, second = np.unique(labels[known], return_inverse=True)
    if len(first) < 2:
        return float("nan")
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1.0)
    inside, rows, columns = (_pairs(part).sum() for part in (table, table.sum(axis=1), table.sum(axis=0)))
    expected = rows * columns / _pairs(np.array(float(len(first))))
    most = (rows + columns) / 2.0
    return float((inside - expected) / (most - expected)) if most != expected else 1.0


def _pairs(count: Floats) -> Floats:
    found: Floats = count * (count - 1.0) / 2.0
    return found


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
