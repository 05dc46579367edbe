from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.merge.partitions import merged, rules
from everlearn.model import build
from tests.support.partitions import grown, labelled, learner

SPEC = {"family": "kmeans", "dense": 3, "hashed": 16, "classes": 2, "memory": 0}


@pytest.mark.parametrize("memory", [0, 50])
def test_counts_and_centres(memory: int) -> None:
    spec = {**SPEC, "memory": memory}
    base = learner(spec, labelled(100))
    parts = [grown(spec, base.arrays, p, 2, labelled(n, 1 + p)).arrays for p, n in enumerate((40, 60))]
    found = merged(base.spec, base.arrays, parts, [40, 60])
    if memory:
        counts = np.average([part["counts"] for part in parts], axis=0, weights=[40, 60])
        sums = np.average([part["counts"][:, None] * part["centres"] for part in parts], axis=0, weights=[40, 60])
    else:
        counts = base.arrays["counts"] + sum(part["counts"] - base.arrays["counts"] for part in parts)
        origin = base.arrays["counts"][:, None] * base.arrays["centres"]
        sums = origin + sum(part["counts"][:, None] * part["centres"] - origin for part in parts)
        assert counts.sum() == pytest.approx(200.0)  # every row counts once
    np.testing.assert_allclose(found["counts"], counts, rtol=1e-12)
    np.testing.assert_allclose(found["centres"], sums / counts[:, None], rtol=1e-9)
    assert found["clock"].tolist() == [200]


def test_the_first_rows_are_those_of_the_part_that_has_most() -> None:
    base = learner(SPEC, labelled(10))
    parts = [grown(SPEC, base.arrays, p, 2, labelled(n, 1 + p)).arrays for p, n in enumerate((5, 20))]
    found = merged(base.spec, base.arrays, parts, [5, 20])
    assert found["first"].tobytes() == parts[1]["first"].tobytes()


def test_more_clusters_than_the_opening_can_begin_are_refused() -> None:
    assert rules(build({**SPEC, "classes": 50}).spec)
    with pytest.raises(ConfigError, match="got a kmeans model of 51 clusters; expected at most 50"):
        rules(build({**SPEC, "classes": 51}).spec)
