"""Single passes: averages of weights, buffers, balanced classes, losses that are not finite."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn._torch import Tensor, functional, torch
from everlearn.families.neural.training_state import PASSES, SKIPPED, TAKEN
from everlearn.model import copied, cut
from tests.support.neural_nets import (
    BALANCED,
    CLASSES,
    DENSE,
    HERE,
    NUMBER,
    PLAIN,
    REPLAY,
    SPEC,
    bytes_of,
    descend,
    examples,
    learn,
    module_of,
    resumed,
)


def test_what_serves_is_the_average_in_closed_form() -> None:
    """w_t = sum of (1 - d_i) r_i times all later decays, d_t = min(decay, (1 + t) / (3 + t))."""
    spec = {**SPEC, "ema": 0.9, "optimizer": {"name": "sgd", "lr": 0.1}}
    module, rows = module_of(spec), examples(400, DENSE, CLASSES)
    rows.y[:3] = (0, 1, 2)
    model = el.build(spec)
    learn(model, rows)
    first = module.state_dict()["0.weight"].clone().double()
    raw = [
        m.state_dict()["0.weight"].clone().double()
        for m in descend(module, torch.optim.SGD(module.parameters(), 0.1), rows)
    ]
    decays = [min(0.9, (1 + t) / (3 + t)) for t in range(len(raw))]
    left = np.append(np.cumprod(decays[::-1])[::-1], 1.0)
    expected = first * left[0] + sum((1 - d) * r * after for d, r, after in zip(decays, raw, left[1:], strict=True))
    np.testing.assert_allclose(model.arrays["weights/0.weight"], expected, atol=1e-6)
    assert (model.arrays["learn/raw/0.weight"] == raw[-1].float().numpy()).all()


def test_batch_statistics_are_averaged_and_counts_are_copied() -> None:
    spec = {**SPEC, "family": HERE + "normalized", "ema": 0.5}
    rows = examples(20, DENSE, CLASSES)
    model = el.build(spec)
    learn(model, cut(rows, 0, 10))
    one = model.arrays["learn/raw/1.running_mean"].copy()
    served = model.arrays["weights/1.running_mean"].copy()
    np.testing.assert_allclose(served, 2 / 3 * one, rtol=1e-5)
    learn(model, cut(rows, 10, 20))
    two, decay = model.arrays["learn/raw/1.running_mean"], 2 / 4
    assert not np.allclose(one, two)
    np.testing.assert_allclose(model.arrays["weights/1.running_mean"], decay * served + (1 - decay) * two, rtol=1e-5)
    assert model.arrays["weights/1.num_batches_tracked"] == model.arrays["learn/raw/1.num_batches_tracked"] == 2


def test_a_buffer_that_a_module_replaces_is_followed_and_tied_weights_are_one() -> None:
    model = el.build({**PLAIN, "family": HERE + "Forgetful"})
    learn(model, examples(35, DENSE, CLASSES))
    assert model.arrays["weights/passes"] == 3
    assert "weights/down.weight" not in model.arrays
    other = el.model.copy(model)
    rows = examples(10, DENSE, CLASSES, seed=3)
    assert (learn(model, rows) == learn(other, rows)).all()
    assert bytes_of(model.arrays) == bytes_of(other.arrays)


def test_classes_are_learned_as_if_equally_frequent_and_answered_as_frequent_as_they_are() -> None:
    """Steps are those on outputs + log(frequency in what is learned); answers are softmax(outputs + log(share))."""
    spec = {**SPEC, "balance": True, "ema": 0.0, "optimizer": {"name": "sgd", "lr": 0.1}}
    module, rows, frequent = module_of(spec), examples(80, DENSE, CLASSES), torch.full((CLASSES,), 1 / CLASSES)
    rows.y[:] = np.where(np.arange(80) % 8, 0, np.arange(80) % 3)
    rows.weight[:] = 1.0
    model, recent = el.build({**spec, "prior": 0}), el.build({**spec, "prior": 40})
    learn(model, rows)
    learn(recent, rows)
    peer, share = torch.optim.SGD(module.parameters(), 0.1), np.full(CLASSES, 1 / CLASSES)
    for at in range(0, 80, 10):
        x, y = torch.from_numpy(rows.batch.dense[at : at + 10]), torch.from_numpy(rows.y[at : at + 10]).long()
        came = torch.bincount(y, minlength=CLASSES) / 10
        frequent, share = frequent + 0.02 * (came - frequent), share + 0.25 * (came.numpy() - share)
        peer.zero_grad()
        torch.nn.functional.cross_entropy(module(x) + frequent.log(), y).backward()
        peer.step()
    for key, value in module.state_dict().items():
        np.testing.assert_allclose(model.arrays[f"weights/{key}"], value, atol=1e-6)
    said = module(torch.from_numpy(rows.batch.dense)).detach()
    counts = torch.from_numpy(np.bincount(rows.y.astype(int), minlength=CLASSES) + 1.0)
    expected = (said + (counts / counts.sum()).log()).softmax(1)
    np.testing.assert_allclose(model.predict(rows.batch), expected, atol=1e-5)
    expected = (said + (counts / counts.sum() / 2 + torch.from_numpy(share) / 2).log()).softmax(1)
    np.testing.assert_allclose(recent.predict(rows.batch), expected, atol=1e-5)


def test_rare_classes_are_told_as_rare_as_they_are() -> None:
    """Learned as if they were as frequent, and yet probabilities are those of the stream."""
    rows = examples(6000, DENSE, 2)
    shift = np.random.default_rng(0).random(6000) < 0.05
    rows.y[:] = shift
    rows.batch.dense[shift] += 1.0
    model = el.build({**SPEC, "task": "binary", "classes": 2, "balance": True, **REPLAY})
    said = learn(model, rows)[2000:, 1]
    assert said.mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("number", [100.0, 101.0])
def test_a_loss_or_a_slope_that_is_not_finite_takes_no_step(number: float) -> None:
    model, rows = el.build({**NUMBER, "loss": HERE + "poisoned", "optimizer": "adam"}), examples(30, DENSE, 0)
    learn(model, cut(rows, 0, 10))
    before = copied(model.arrays)
    rows.y[14] = number
    learn(model, cut(rows, 10, 20))
    for name in before:
        if name.startswith(("weights/", "learn/optimizer/")):
            assert (model.arrays[name] == before[name]).all()
    counts = model.arrays["learn/counts"]
    assert (counts[PASSES], counts[TAKEN], counts[SKIPPED]) == (2, 1, 1)
    learn(model, cut(rows, 20, 30))
    assert counts[TAKEN] == 2
    assert not (model.arrays["weights/0.weight"] == before["weights/0.weight"]).all()


def infinite(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, y, reduction="none") + torch.where(y == 2, torch.inf, 0.0)


def test_a_buffer_that_is_replaced_is_there_after_a_pass_without_a_step() -> None:
    spec = {**BALANCED, "family": HERE + "Counts", "loss": "tests.families.neural.test_passes:infinite"}
    rows = examples(60, 5, 3)
    rows.y[:] = 0
    rows.y[10:20] = 2
    model = el.build(spec)
    learn(model, rows)
    assert model.arrays["learn/counts"][SKIPPED] == 1
    other = resumed(spec, rows, 20, 40)
    assert model.arrays["weights/passes"] == other.arrays["weights/passes"] == 6
    assert bytes_of(model.arrays) == bytes_of(other.arrays)
