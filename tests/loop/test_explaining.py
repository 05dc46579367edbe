"""A loop explains the answer that it gives, and logs nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec import structs

import everlearn as el
from everlearn.errors import InputError
from everlearn.loop.loop import Loop
from everlearn.spec import LimitsSpec
from tests.support import loops


@pytest.mark.parametrize("family", ["linear", "forest"])
def test_contributions_add_up_to_the_answer_of_the_loop(family: str, tmp_path: Path) -> None:
    """Also of a record far outside of the ranges, which the loop clips."""
    spec = structs.replace(loops.spec(mode="live", model={"family": family}), limits=LimitsSpec(clip=0.01))
    table = loops.table(400)
    with Loop(spec, tmp_path) as loop:
        for row in range(400):
            loop.learn(loops.record(table, row), int(table["label"][row]))
        for record in (loops.record(table, 5), {"a": 1e6, "b": -1e6, "c": "c1"}):
            proba = loop.predict(record).proba
            before = loop.position
            found = el.explain(loop, record)
            assert loop.position == before
            assert sum(found.values()) == pytest.approx(math.log(proba[1] / proba[0]), rel=1e-5, abs=1e-5)
        with pytest.raises(InputError, match="field 'a'"):
            el.explain(loop, {"a": "much"})
