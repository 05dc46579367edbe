from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.merge.partitions import merged, rules
from everlearn.model import build
from tests.support.partitions import grown, labelled, learner

SPEC = {"family": "neural", "task": "binary", "dense": 3, "hashed": 16, "classes": 2, "memory": {"bytes": 4096}}


@pytest.mark.slow
def test_weights_are_averaged_and_the_memory_stays() -> None:
    base = learner(SPEC, labelled(60))
    parts = [grown(SPEC, base.arrays, p, 2, labelled(n, 1 + p)).arrays for p, n in enumerate((60, 20))]
    found = merged(base.spec, base.arrays, parts, [60, 20])
    for name, array in found.items():
        held = [part[name] for part in parts]
        if name.startswith(("weights/", "learn/raw/")) or "exp_avg" in name:
            expected = np.average(np.stack(held).astype(float), axis=0, weights=[60, 20])
            np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-7, err_msg=name)
        if name.startswith("learn/memory/"):
            assert array.tobytes() == base.arrays[name].tobytes(), name
    alone = learner(SPEC, labelled(60), labelled(60, 1), labelled(20, 2)).arrays
    assert found["inputs/moments"][0].tolist() == alone["inputs/moments"][0].tolist()


@pytest.mark.slow
def test_terms_of_one_history_are_refused() -> None:
    spec = build({**SPEC, "terms": [{"kind": "ewc"}]}).spec
    with pytest.raises(ConfigError, match="got a neural model with terms ewc"):
        rules(spec)
