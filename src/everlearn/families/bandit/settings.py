"""The settings of the bandit family: read, checked, and completed with their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.bandit import explore, rows
from everlearn.records import Floats

Explore = Literal["squarecb", "epsilon", "linucb", "thompson", "greedy"]
Learn = Literal["mtr", "ips", "dr"]

LEARNS = {"mtr": rows.MTR, "ips": rows.IPS, "dr": rows.DR}
MOST_ACTIONS = 256
HASH_LIMIT = 1 << 31  # hashed indices are int32
FULL_COLUMNS = 64  # inputs up to which a block of weights has a whole covariance matrix
FULL_NUMBERS = 1 << 20  # numbers that the matrices of all actions may have
CROSSED_INPUTS = 1024  # shared inputs up to which action features are multiplied with the columns of the record
GAMMA_SCALE, GAMMA_EXPONENT = 100.0, 0.5  # of "squarecb"; rewards are scaled to [0, 1]
EPSILON_FLOOR, EPSILON_DECAY = 0.02, 0.3  # of "epsilon"
BOUNDS = {"squarecb": 1.0, "linucb": 1.5}  # posterior deviations added to an expected reward
FLOOR = 0.003  # the probability that "linucb", "thompson" and "greedy" spread over the available actions
HORIZON = 500.0  # rows in which the covariance of an action that is not served grows e times
FORGET = 0.998  # the share of the information along its direction that a row leaves in a whole covariance matrix
FORGET_DIAGONAL = 0.8  # the same for diagonals, which count what entries have in common once for each entry
PRIOR_VARIANCE = 0.1  # of each weight before the first row, in units of the noise
HASHED_VARIANCE = 0.03  # the same for a hashed entry
LARGEST_WEIGHT = 100.0  # one row weighs this at most; so does 1 / propensity for "ips" and "dr"
HEAVIEST = 2.0  # 1 / propensity counts as this at most for "mtr"


class BanditSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a bandit.

    `dense` is the number of dense columns of a row: those of the record, then (1 + `action_features`) for each of
    `actions`, then action and propensity. `rewards` is the range of rewards; others are cut to it. `explore` and
    `learn` are described in `everlearn.families.bandit.explore` and `everlearn.families.bandit.model`. `seed` has no
    effect here, since a policy is a probability of each action: the loop draws from it.
    """

    family: Literal["bandit"] = "bandit"
    task: Literal["regression"] = "regression"
    dense: int
    hashed: int = 0
    classes: int = 0
    actions: int
    action_features: int = 0
    rewards: tuple[float, float] = (0.0, 1.0)
    explore: Explore = "squarecb"
    learn: Learn = "mtr"
    seed: int = 0

    @property
    def columns(self) -> int:
        """Dense columns of the record alone."""
        return self.dense - self.actions * (1 + self.action_features) - 2

    @property
    def shared(self) -> int:
        """Inputs with weights that all actions share; none where actions have no features."""
        if not self.action_features:
            return 0
        crossed = 1 + self.action_features * (1 + self.columns)
        return crossed if crossed <= CROSSED_INPUTS else 1 + self.action_features


def read(spec: Mapping[str, Any]) -> BanditSettings:
    """Check a spec and fill in its defaults.

    Raises `ConfigError`, which names the setting, its value and the right values.

    >>> read({"dense": 12, "actions": 3}).columns
    7
    """
    if spec.get("task", "regression") != "regression" or "actions" not in spec:
        raise ConfigError(
            f"bandit model: got the task {spec.get('task')!r} and actions {spec.get('actions')!r}; expected the task "
            "'regression', of rewards, and a number of actions. On a stream of classes use "
            "everlearn.bandit_run('bandit', stream); for a log of actions, `everlearn init DATA --task bandit`"
        )
    settings = specs.convert(dict(spec), BanditSettings, "bandit", {})
    low, high = settings.rewards
    _expect(2 <= settings.actions <= MOST_ACTIONS, "actions", settings.actions, f"2 to {MOST_ACTIONS} of them")
    _expect(settings.action_features >= 0, "action_features", settings.action_features, "a number from 0")
    least = settings.actions * (1 + settings.action_features) + 2
    _expect(
        settings.columns >= 0,
        "dense",
        settings.dense,
        f"at least {least} columns for {settings.actions} actions with {settings.action_features} features each: "
        "available and the features of each action, then action and propensity",
    )
    _expect(0 <= settings.hashed < HASH_LIMIT, "hashed", settings.hashed, f"a hash space of 0 to {HASH_LIMIT - 1}")
    _expect(settings.classes == 0, "classes", settings.classes, "0; a bandit has actions")
    right = math.isfinite(low) and math.isfinite(high) and low < high
    _expect(right, "rewards", list(settings.rewards), "the lowest and the highest reward, such as [0.0, 1.0]")
    return settings


def _expect(right: bool, setting: str, got: object, expected: str) -> None:
    if not right:
        raise ConfigError(f"bandit model: {setting}: got {got!r}; expected {expected}")


def full(inputs: int, blocks: int) -> bool:
    """Return True if blocks of so many inputs each have whole covariance matrices, and not diagonals.

    >>> full(64, 10), full(65, 10), full(64, 257)
    (True, False, False)
    """
    return inputs <= FULL_COLUMNS and blocks * inputs * inputs <= FULL_NUMBERS


def kernel_settings(settings: BanditSettings) -> Floats:
    """Return the settings that kernels take, float64 (16,), at the positions of `everlearn.families.bandit.rows`."""
    found: Floats = np.zeros(16)
    found[[rows.FORGET, rows.LARGEST, rows.HEAVIEST]] = FORGET, LARGEST_WEIGHT, HEAVIEST
    found[[rows.PRIOR, rows.FORGET_DIAGONAL]] = PRIOR_VARIANCE, FORGET_DIAGONAL
    found[[rows.EXPLORE, rows.LEARN]] = explore.KINDS[settings.explore], LEARNS[settings.learn]
    found[[rows.EPSILON, rows.DECAY, rows.ALPHA]] = EPSILON_FLOOR, EPSILON_DECAY, BOUNDS.get(settings.explore, 0.0)
    found[[rows.GAMMA, rows.GAMMA_POWER]] = GAMMA_SCALE, GAMMA_EXPONENT
    found[[rows.FLOOR, rows.HORIZON]] = FLOOR, HORIZON
    found[[rows.LOW, rows.HIGH]] = settings.rewards
    return found
