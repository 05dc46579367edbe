from __future__ import annotations

import numpy as np

from everlearn.merge.partitions import merged, rules
from everlearn.model import build
from tests.support.partitions import BINARY, grown, labelled, learner

MEMBERS = [{"family": "linear"}, {"family": "forest", "trees": 2, "memory": 1 << 18}, {"family": "last"}]
SPEC = {"family": "mix", "members": MEMBERS, **BINARY}


def test_members_are_merged_as_alone_and_stackers_averaged() -> None:
    base = learner(SPEC, labelled(200))
    parts = [grown(SPEC, base.arrays, p, 2, labelled(n, 1 + p)).arrays for p, n in enumerate((60, 40))]
    found = merged(base.spec, base.arrays, parts, [60, 40])
    linear = {**BINARY, **MEMBERS[0]}
    member = build(linear)
    own = [{name: one[f"members/0/{name}"] for name in member.arrays} for one in (base.arrays, *parts)]
    for name, array in merged(member.spec, own[0], own[1:], [60, 40]).items():
        assert found[f"members/0/{name}"].tobytes() == array.tobytes(), name
    for tree in range(2):
        assert found["members/1/nodes"][tree].tobytes() == parts[tree]["members/1/nodes"][tree].tobytes()
    expected = np.average([part["stack/shared"] for part in parts], axis=0, weights=[60, 40])
    np.testing.assert_allclose(found["stack/shared"], expected, rtol=1e-12)
    assert found["rest/counts"][0] == found["stack/counts"][0, 0] == 300.0


def test_names_of_members_that_stay_in_a_partition() -> None:
    spec = {"members": [{"family": "linear"}, {"family": "neural"}], **BINARY, "family": "mix"}
    local = rules({"family": "mix", "members": [], **BINARY}).local
    assert local(spec, "learn/members/1/memory/y")
    assert not local(spec, "members/1/weights/first.bias")
    assert not local(spec, "members/0/weights")
    assert not local(spec, "stack/shared")
