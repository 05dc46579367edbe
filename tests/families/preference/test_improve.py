"""Rounds on a small world with an exact win: what they reach, what holds them back, and that they can be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.families.neural.settings import Lora
from everlearn.families.preference.improve import Improve, Round, allowed, improve
from everlearn.families.preference.methods import METHODS, TokenPairs
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.text import Ids
from tests.support import slotworld
from tests.support.tiny_lms import tiny

SMALL: dict[str, Any] = {"prompts": 12, "candidates": 12, "limit": slotworld.SLOTS, "rows": 512}


def policy(rate: float = 1e-3, value: bool = False, lora: Lora | None = None) -> Policy:
    return Policy(slotworld.reference(), optimizer={"name": "adam", "lr": rate}, value=value, lora=lora)


def rounds(learner: Policy, settings: Improve, count: int, **given: Any) -> list[Round]:
    asked = slotworld.prompts()
    return [
        improve(learner, asked, slotworld.gold(), settings, labels=32 * number, **given)
        for number in range(1, count + 1)
    ]


def test_best_of_n_distillation_raises_the_exact_win() -> None:
    learner = policy(3e-3)
    start = slotworld.measure(learner.module)
    assert (start.kl, start.win) == pytest.approx((0.0, 0.5), abs=1e-6)
    done = rounds(learner, Improve(**SMALL, beta=0.0), 5)  # without a leash
    now = slotworld.measure(learner.module)
    print(f"win {now.win:.3f} at KL {now.kl:.2f} nats, gold {start.gold:.2f} -> {now.gold:.2f}")
    assert now.win > 0.9
    assert now.kl < 6.5
    assert done[-1].kl == pytest.approx(now.kl, abs=1.0)  # measured during the round, on samples
    assert [one.budget for one in done] == [2.0, 4.0, 6.0, 6.0, 6.0]
    assert done[-1].entropy < done[0].entropy
    assert done[-1].distinct < done[0].distinct
    assert done[-1].length == slotworld.SLOTS
    assert done[-1].reward > done[0].reward


def test_the_budget_holds_the_policy_back() -> None:
    free, held = policy(4e-3), policy(4e-3)
    rounds(free, Improve(**SMALL, beta=0.0, ramp=0.0, budget=99.0), 2)
    done = rounds(held, Improve(**SMALL, beta=0.0, ramp=0.0, budget=1.0), 2)
    assert slotworld.measure(free.module).kl > 2.5
    assert slotworld.measure(held.module).kl < 1.5
    assert slotworld.measure(held.module).win > 0.6
    assert done[-1].held > 0.2
    assert done[0].budget == 1.0


def test_a_policy_that_is_behind_takes_more_steps_and_never_more_than_a_stride() -> None:
    far, steps = [], []
    for turns, stride in ((1, np.inf), (3, np.inf), (3, 0.5)):
        learner = policy(1e-3)
        rounds(learner, Improve(**SMALL, beta=0.0, ramp=0.0, budget=9.0, turns=turns), 1, stride=stride)
        far.append(slotworld.measure(learner.module).kl)
        steps.append(learner.steps)
    assert steps[0] == 16
    assert steps[1] == 48
    assert far[1] > 2 * far[0]
    assert far[2] < min(far[1], 1.0)
    learner = policy(1e-3)
    constant = Improve(**SMALL, beta=4.0, ramp=0.0, turns=3)
    improve(learner, slotworld.prompts(), lambda asked, answers, _: np.zeros(len(answers)), constant, labels=32)
    assert learner.steps == 16  # far below its bound, and at rest


def test_only_trusted_labels_raise_the_budget() -> None:
    learner = policy(3e-3)
    done = rounds(learner, Improve(**SMALL), 2, trusted=4)
    assert [one.budget for one in done] == [0.25, 0.25]
    assert slotworld.measure(learner.module).kl < 1.0  # steps beyond it imitate the reference
    assert allowed(Improve(), 1e9) == 6.0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_raises_the_gold_reward(name: str) -> None:
    learner, passes = policy(4e-3, value=name == "ppo"), 2 if name == "ppo" else 1
    before = slotworld.measure(learner.module).gold
    done = rounds(learner, Improve(**SMALL, method=name, steps=10, ramp=0.0, passes=passes), 1)
    assert slotworld.measure(learner.module).gold > before + (0.1 if name in ("normalised", "simpo") else 0.3)
    assert np.isfinite(done[0]).all()
    assert int(learner.tensors["learn/skipped"]) == 0


def test_a_reward_that_knows_nothing_raises_nothing() -> None:
    learner, draw = policy(2e-3), np.random.default_rng(0)

    def noise(asked: list[Ids], answers: list[Ids], features: NDArray[np.float32]) -> NDArray[np.float64]:
        return draw.normal(size=len(answers))

    improve(learner, slotworld.prompts(), noise, Improve(**SMALL, ramp=0.0), labels=32)
    assert slotworld.measure(learner.module).win == pytest.approx(0.5, abs=0.06)


# ---- judged pairs --------------------------------------------------------------------------------------------------


def judged(count: int, turned: bool = False) -> TokenPairs:
    """Pairs of the reference's answers, judged by the gold reward; reference log-probabilities unknown."""
    draw, given = np.random.default_rng(1), slotworld.world()
    row = draw.integers(slotworld.PROMPTS, size=count)
    a, b = (np.array([draw.choice(len(given.answers), p=np.exp(given.reference[x])) for x in row]) for _ in range(2))
    better = given.gold[row, a] > given.gold[row, b]
    ones, unknown = np.ones(count, np.float32), np.full(count, np.nan, np.float32)
    return TokenPairs(
        [[int(x)] for x in row],
        [given.answers[i] for i in a],
        [given.answers[i] for i in b],
        (better != turned).astype(np.float32),
        unknown,
        unknown,
        ones,
        ones,
    )


def test_methods_learn_from_judged_pairs_of_a_file() -> None:
    settings = Improve(**{**SMALL, "prompts": 48}, method="dpo", steps=16, ramp=0.0)
    gold = []
    for turned in (False, True):
        learner = policy(4e-3)
        improve(learner, slotworld.prompts(), slotworld.gold(), settings, labels=400, pairs=judged(400, turned))
        gold.append(slotworld.measure(learner.module).gold)
    start = slotworld.measure(slotworld.reference()).gold
    assert gold[1] < start - 0.3
    assert gold[0] > start + 0.3


def test_examples_keep_old_skills() -> None:
    given, draw = slotworld.world(), np.random.default_rng(3)
    chance = np.exp(given.reference[5])
    examples: list[tuple[Ids, Ids]] = [([5], given.answers[draw.choice(len(chance), p=chance)]) for _ in range(100)]
    lost = []
    for mixed in ([], examples):
        learner = policy(4e-3)
        settings = Improve(**SMALL, ramp=0.0, mix=1.0)
        improve(learner, slotworld.prompts()[:5], slotworld.gold(), settings, labels=32, examples=mixed)
        logp = slotworld.table(learner.module)[5]
        lost.append(float((chance * (given.reference[5] - logp)).sum()))  # nats of the old answers
        assert slotworld.measure(learner.module).win > 0.58
    assert lost[1] < 0.5 * lost[0]


# ---- repeated ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "lora"), [("bon", None), ("bon", Lora(rank=2)), ("ppo", None), ("kto", None)])
def test_rounds_from_stored_arrays_give_the_same_bytes(method: str, lora: Lora | None) -> None:
    settings = Improve(**{**SMALL, "prompts": 6, "rows": 32}, method=method, steps=3)
    value = method == "ppo"
    whole = policy(value=value, lora=lora)
    old = slotworld.prompts()[:3]
    improve(whole, slotworld.prompts(), slotworld.gold(), settings, labels=32, old=old, seed=5)
    stored = {name: one.copy() for name, one in whole.arrays.items()}
    expected = improve(whole, slotworld.prompts(), slotworld.gold(), settings, labels=64, old=old, seed=5)
    resumed = policy(value=value, lora=lora)
    resumed.restore(stored)
    found = improve(resumed, slotworld.prompts(), slotworld.gold(), settings, labels=64, old=old, seed=5)
    assert found == expected
    for name, one in whole.arrays.items():
        assert one.tobytes() == resumed.arrays[name].tobytes(), name
    other = policy(value=value, lora=lora)
    other.restore(stored)
    improve(other, slotworld.prompts(), slotworld.gold(), settings, labels=64, old=old, seed=6)
    assert any(one.tobytes() != other.arrays[name].tobytes() for name, one in whole.arrays.items())


# ---- what the reward is asked --------------------------------------------------------------------------------------


class Asked:
    """A reward that remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[Sequence[int]] = []
        self.features: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self.same = 0

    def __call__(self, asked: list[Ids], answers: list[Ids], features: NDArray[np.float32]) -> NDArray[np.float64]:
        self.prompts += asked
        for prompt, answer, row in zip(asked, answers, features, strict=True):
            key = (*prompt, *answer)
            if key in self.features:
                self.same += 1
                np.testing.assert_allclose(self.features[key], row, atol=1e-4)
            self.features[key] = row
        return slotworld.gold()(asked, answers, features)


def test_features_are_those_of_the_reference_and_old_prompts_come_back() -> None:
    reward, learner = Asked(), policy(1e-2)
    new, old = slotworld.prompts()[:2], slotworld.prompts()[2:]
    settings = Improve(**SMALL, steps=6, old=0.25)
    improve(learner, new, reward, settings, labels=200, old=old)
    assert slotworld.measure(learner.module).kl > 0.2
    assert reward.same > 100  # answers sampled before and after steps have equal features
    assert {prompt[0] for prompt in reward.prompts} == set(range(6))
    again = sum(prompt[0] >= 2 for prompt in reward.prompts) / len(reward.prompts)
    assert 0.2 < again < 0.4  # a quarter of the prompts; their answers differ a little more often
    without = Asked()
    improve(policy(), new, without, Improve(**SMALL, steps=1, old=0.25), labels=200)
    assert {prompt[0] for prompt in without.prompts} == {0, 1}


def test_stop_tokens_end_candidates_and_what_collapses_is_measured() -> None:
    learner = Policy(tiny("gpt2"), optimizer={"name": "adam", "lr": 0.01})
    heard: list[Ids] = []

    def short(prompts: list[Ids], answers: list[Ids], features: NDArray[np.float32]) -> NDArray[np.float64]:
        heard.extend(answers)
        assert [len(answer) for answer in answers] == features[:, -1].tolist()
        return np.array([-len(answer) for answer in answers])

    settings = Improve(prompts=8, candidates=8, limit=12, ramp=0.0, steps=12, turns=1, beta=0.0)
    stop = tuple(range(40, 50))
    first, last = (improve(learner, [[1, 2], [3]], short, settings, labels=i, stop=stop) for i in (32, 64))
    assert all(len(answer) == 12 or answer[-1] in stop for answer in heard)
    assert 0 < first.cut < 0.5
    assert first.length > last.length >= 1
    assert last.cut < first.cut
    assert last.reward == pytest.approx(-last.length)
    assert last.distinct < first.distinct


def test_what_cannot_be_improved_is_refused() -> None:
    learner = policy()
    with pytest.raises(InputError, match=r"prompts: got none"):
        improve(learner, [], slotworld.gold(), Improve(**SMALL), labels=32)
    with pytest.raises(ConfigError, match=r"improve.method: got 'sft'"):
        improve(learner, [[0]], slotworld.gold(), Improve(method="sft"), labels=32)
    with pytest.raises(ModelError, match=r"reward: got scores of shape \(1,\); expected \d+ finite numbers"):
        improve(learner, [[0]], lambda asked, answers, features: np.zeros(1), Improve(**SMALL), labels=32)
    with pytest.raises(ModelError, match=r"finite numbers, one an answer"):
        improve(learner, [[0]], lambda a, answers, f: np.full(len(answers), np.nan), Improve(**SMALL), labels=32)
