"""The kinds of terms: which go together, and which need a memory."""

from __future__ import annotations

from typing import Any

import pytest

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.families.neural.terms import fitting, kind
from everlearn.families.neural.terms.plasticity import L2Init
from everlearn.families.neural.terms.replay import Agem, Distill, Gdumb, Replay
from tests.support.neural_nets import HERE

FORGETFUL = {"family": HERE + "Forgetful", "task": "multiclass", "classes": 3, "dense": 5}


@pytest.mark.parametrize("term", [Replay(), Distill(), Agem(), Gdumb()])
def test_terms_of_remembered_rows_need_a_memory(term: Any) -> None:
    name = kind(term)
    with pytest.raises(
        ConfigError, match=f"terms: got '{name}', which draws from the memory, with memory.kind 'none'; expected"
    ):
        fitting((L2Init(), term), "none")
    assert fitting((L2Init(), term), "none", given=False) == (L2Init(),)
    assert fitting((L2Init(), term), "window") == (L2Init(), term)
    assert fitting((), "none") == ()


@pytest.mark.parametrize("terms", [(Replay(), Gdumb()), (Gdumb(), L2Init(), Replay()), (Replay(), Replay(rows=3))])
def test_one_term_at_most_replaces_the_loss_of_the_rows_that_come(terms: Any) -> None:
    named = " and ".join(repr(kind(one)) for one in terms if not isinstance(one, L2Init))
    with pytest.raises(ConfigError, match=f"terms: got {named}, which both replace the loss of new rows; expected"):
        fitting(terms, "balanced")
    assert fitting((Replay(), Distill(), Agem()), "balanced") == (Replay(), Distill(), Agem())


def test_a_network_without_a_memory_has_no_terms_of_remembered_rows() -> None:
    spec = {**FORGETFUL, "memory": {"kind": "none"}}
    assert not el.build(spec).spec["terms"]
    with pytest.raises(ConfigError, match="terms: got 'replay', which draws from the memory, with memory.kind 'none'"):
        el.build({**spec, "terms": [{"kind": "replay"}]})
    with pytest.raises(ConfigError, match="'replay' and 'gdumb', which both replace the loss"):
        el.build({**FORGETFUL, "terms": [{"kind": "replay", "loss": "asymmetric"}, {"kind": "gdumb"}]})
    with pytest.raises(ConfigError, match="head: got 'ncm' with memory.kind 'none'; expected a memory"):
        el.build({**spec, "head": "ncm"})
