"""Losses: heads that compete among themselves, and losses of the user."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.model import cut
from tests.support.neural_nets import CLASSES, DENSE, HERE, PLAIN, SPEC, examples, learn, one_thread, plain  # noqa: F401  (one_thread)


def test_heads_compete_among_themselves_only() -> None:
    spec = {**PLAIN, "classes": 4, "heads": [[0, 1]], "optimizer": "sgd"}
    model, rows = el.build(spec), examples(20, DENSE, 4)
    rows.y[:10] = np.arange(10) % 4
    learn(model, cut(rows, 0, 10))
    before = model.arrays["weights/2.bias"].copy()
    rows.y[10:] = np.arange(10) % 2
    learn(model, cut(rows, 10, 20))
    now = model.arrays["weights/2.bias"]
    assert (now[2:] == before[2:]).all()
    assert (now[:2] != before[:2]).all()
    assert (model.predict(rows.batch) > 0).all()  # in answers all compete
    with pytest.raises(ConfigError, match=r"heads are .*, expected each of 0 to 3 once at most"):
        el.build({**spec, "heads": [[0, 1], [1, 2]]})


def test_a_loss_of_ones_own_finds_its_least() -> None:
    draw = np.random.default_rng(0)
    x, noise = draw.normal(size=(6000, 1)), draw.normal(size=6000)
    spec = {"family": HERE + "line", "task": "regression", "dense": 1, "loss": HERE + "pinball", "normalize": False}
    model = el.build({**spec, "ema": 0.99, "optimizer": {"name": "adam", "lr": 0.01}})
    model.learn(plain(x), 2 * x[:, 0] + noise, np.ones(6000, np.float32))
    above = (2 * x[:, 0] + noise > model.predict(plain(x))[:, 0]).mean()
    assert above == pytest.approx(0.1, abs=0.02)
    focal = el.build({**SPEC, "loss": HERE + "focal"})
    rows = examples(600, DENSE, CLASSES)
    assert (learn(focal, rows)[300:].argmax(1) == rows.y[300:]).mean() > 0.5
