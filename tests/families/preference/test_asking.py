"""Questions: their arms and propensities, duels in random order, and the nomination of a candidate."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest

from everlearn.families.preference import asking, choose, features, reward
from everlearn.families.preference.asking import Side
from everlearn.families.preference.model import PreferenceModel
from everlearn.families.preference.passes import read_answers
from everlearn.families.preference.summary import EVIDENCE, TRUSTED
from everlearn.schema.question import judged, unpack_ids
from tests.support.preference_models import made

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def model() -> PreferenceModel:
    return made()


def test_a_duel_is_one_answer_of_each_in_random_order(model: PreferenceModel) -> None:
    one, other = Side(model, 3, "v"), Side(copy(model), 5, "w")
    found = [asking.duel(one, other, PROMPT, (0, number), group="g", propensity=0.2) for number in range(40)]
    for asked in found:
        first, second = judged(asked)
        assert {(first.uid, first.version), (second.uid, second.version)} == {(3, "v"), (5, "w")}
        assert (asked.arm, asked.pair, asked.propensity, asked.group) == ("duel", (0, 1), 0.1, "g")
        assert first.ids != second.ids
        assert len(asked.reference_logp) == 2
    orders = np.array([judged(asked)[0].uid == 3 for asked in found])
    sides = np.array([asked.swapped for asked in found])
    assert 10 < orders.sum() < 30
    assert 10 < sides.sum() < 30
    assert 10 < (orders == sides).sum() < 30
    assert found[0] == asking.duel(one, other, PROMPT, (0, 0), group="g", propensity=0.2)


def test_the_answers_of_a_duel_come_from_their_own_policies(model: PreferenceModel) -> None:
    loud = copy(model)
    with_bias = dict(loud.policy.arrays)
    for name, array in with_bias.items():
        if name.startswith("policy/"):
            with_bias[name] = array + np.random.default_rng(0).normal(size=array.shape).astype(array.dtype)
    loud.policy.restore({name: with_bias[name] for name in loud.policy.tensors})
    asked = asking.duel(Side(model, 3), Side(loud, 5), PROMPT, (1, 2))
    for one in judged(asked):
        module, ids = (model if one.uid == 3 else loud).policy.module, unpack_ids(one.ids).tolist()
        own = read_answers(module, [PROMPT], [ids], layers=[-1]).logp
        assert np.frombuffer(one.logp, "<f4").sum() == pytest.approx(float(own[0]), abs=1e-3)


def test_arms_come_by_their_shares(model: PreferenceModel) -> None:
    rival = Side(copy(model), 5)
    found = [asking.ask(model, PROMPT, (7, number), uid=3, rival=rival) for number in range(96)]
    share = {arm: sum(asked.arm == arm for asked in found) / 96 for arm in ("duel", "random", "active")}
    assert share["duel"] == pytest.approx(0.2, abs=0.1)
    assert share["random"] == pytest.approx(0.125, abs=0.09)
    for asked in found:
        if asked.arm == "random":
            assert asked.propensity == pytest.approx(0.125 / (3 * 2))  # the fourth candidate is the reference's
            assert max(asked.pair) < 3
        assert all(one.uid in (3, 5 if asked.arm == "duel" else 0) for one in asked.answers)
    alone = [asking.ask(model, PROMPT, (7, number), uid=3) for number in range(24)]
    assert {asked.arm for asked in alone} == {"random", "active"}


def test_a_candidate_is_nominated_when_its_reward_model_expects_a_win(model: PreferenceModel) -> None:
    champion, candidate = made(nominate=0.5), made(nominate=0.5)
    assert asking.expected_win(candidate, champion, [PROMPT] * 3, (0,)) == 0.5  # an untrained head expects nothing
    assert asking.expected_win(candidate, champion, [], (0,)) == 0.5
    assert asking.nominated(candidate, champion, [PROMPT], (0,))
    assert not asking.nominated(model, champion, [PROMPT], (0,))
    assert asking.nominated(model, champion, [PROMPT], (0,), cheap=True)


def test_a_model_is_asked_what_it_claims_until_its_skill_is_shown() -> None:
    """The best of all candidates against the worst, by a reward model whose weights are drawn here."""
    model, random = made(selector="random", candidates=2, prove=6), np.random.default_rng(0)
    counts, held = model.part("progress")["counts"], model.part("features")
    assert asking.selecting(model) == "random"  # without labels, evidence holds nothing back
    counts[TRUSTED] = 8.0
    held["mapping"][:] = random.normal(size=held["mapping"].shape)
    model.part("reward")["weights"][0] = random.normal(size=held["mapping"].shape[1])
    found = [asking.ask(model, PROMPT, (5, number)) for number in range(48)]
    assert {one.selector for one in found} == {choose.EXTREMES}
    assert {len(one.answers) for one in found} == {6}
    assert sum(one.arm == "random" for one in found) < 16
    firsts = []
    for one in found:
        if one.arm == "active":
            ids = [unpack_ids(each.ids).tolist() for each in one.answers]
            with model.policy.reference() as module:
                raw = read_answers(module, [PROMPT] * 6, ids, layers=model.settings.reward.layers).features
            mean, _ = reward.score(model.part("reward"), features.mapped(held, raw), np.zeros(6, np.int64))
            pair = mean[list(one.pair)]
            assert sorted(pair) == pytest.approx([mean.min(), mean.max()], abs=1e-4)
            firsts.append(pair[0] > pair[1])
    assert 8 < sum(firsts) < len(firsts) - 8
    counts[EVIDENCE] = 99.0
    one = asking.ask(model, PROMPT, (5, 0))
    assert (one.selector, one.arm, len(one.answers)) == ("random", "random", 2)
    counts[EVIDENCE] = 0.0
    assert asking.selecting(made({"improve": {"proof": 0.0}}, selector="random")) == "random"
