"""Networks as models: steps by hand, averages, exact resume, every optimiser, images, sequences, masks, bad rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlearn as el
from everlearn._torch import functional, nn, torch
from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.families.neural import Neural, optimizer
from everlearn.families.neural.settings import Schedule
from everlearn.families.neural.step import DRIFTS, PASSES, SKIPPED, TAKEN
from everlearn.model import answering, copied, cut
from everlearn.records import Batch, Examples
from tests.support import neural_nets
from tests.support.neural_nets import HERE, bytes_of, examples, learn, one_thread, plain  # noqa: F401  (one_thread)

NET = HERE + "perceptron"
DENSE, CLASSES = 5, 3
SPEC: dict[str, Any] = {
    "family": NET,
    "task": "multiclass",
    "classes": CLASSES,
    "dense": DENSE,
    "normalize": False,
    "terms": [],
    "layout": 1,  # settings that are retired in new specs are tested here, too
    "balance": False,
    "restart": False,
}
PLAIN: dict[str, Any] = {**SPEC, "ema": 0.0}
NUMBER: dict[str, Any] = {**SPEC, "task": "regression", "classes": 0, "ema": 0.0}
REPLAY = {"terms": [{"kind": "replay"}], "memory": {"rows": 30}}


def module_of(spec: dict[str, Any]) -> nn.Module:
    """The module that a model of this spec begins with, by its own weights."""
    module = neural_nets.perceptron(spec["dense"], spec.get("classes", 1))
    held = el.build(spec).arrays
    module.load_state_dict({name: torch.tensor(held[f"weights/{name}"]) for name in module.state_dict()})
    return module


def descend(module: nn.Module, peer: torch.optim.Optimizer, rows: Examples, batch: int = 10) -> Iterator[nn.Module]:
    """The loop that anybody writes."""
    for start in range(0, len(rows.y) - batch + 1, batch):
        part = cut(rows, start, start + batch)
        losses = functional.cross_entropy(
            module(torch.tensor(part.batch.dense)), torch.tensor(part.y).long(), reduction="none"
        )
        peer.zero_grad()
        (losses * torch.tensor(part.weight)).mean().backward()
        peer.step()
        yield module


# Steps


@pytest.mark.parametrize(
    ("name", "dials"),
    [
        ("SGD", {"lr": 0.1, "fused": True}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01, "fused": True}),
        ("Adam", {"lr": 0.01, "fused": True}),
        ("Adam", {"lr": 0.01, "amsgrad": True, "foreach": False}),
        ("AdamW", {"lr": 0.01, "fused": True}),
        ("Adagrad", {"lr": 0.05, "fused": True}),
        ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True}),
        ("NAdam", {"lr": 0.01, "foreach": True}),
    ],
)
def test_weights_are_those_of_a_loop_by_hand(name: str, dials: dict[str, Any]) -> None:
    spec = {**PLAIN, "optimizer": {"name": name, **dials}}
    module, rows = module_of(spec), examples(107, DENSE, CLASSES)
    rows.y[:3] = (0, 1, 2)  # no class is masked
    peer = getattr(torch.optim, name)(module.parameters(), **dials)
    model = el.build(spec)
    learn(model, rows)
    for _ in descend(module, peer, rows):
        pass
    for key, value in module.state_dict().items():
        assert model.arrays[f"weights/{key}"].tobytes() == value.numpy().tobytes()
    for key, one in module.named_parameters():
        for part, value in peer.state[one].items():
            if value is not None:
                assert model.arrays[f"learn/optimizer/{key}/{part}"].tobytes() == value.numpy().tobytes()


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


def test_a_schedule_is_what_pytorch_makes_of_it() -> None:
    down = Schedule(kind="cosine", steps=20, floor=0.25)
    weight = nn.Parameter(torch.zeros(1))
    peer = torch.optim.SGD([weight], lr=0.4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(peer, 20, eta_min=0.1)
    for step in range(20):
        assert 0.4 * optimizer.rate(down, step) == pytest.approx(peer.param_groups[0]["lr"])
        peer.step()
        cosine.step()
    linear = Schedule(kind="linear", warmup=4, steps=10, floor=0.0)
    assert [optimizer.rate(linear, step) for step in (0, 3, 4, 9, 14)] == [0.25, 1.0, 1.0, 0.5, 0.0]


def test_the_schedule_is_used_and_clipping_bounds_the_step() -> None:
    rows = examples(10, DENSE, CLASSES)
    rows.weight[:] = 1000.0
    spec = {**PLAIN, "optimizer": {"name": "sgd", "lr": 0.1}, "clip": 1.0, "schedule": {"warmup": 5}}
    model = el.build(spec)
    before = copied(model.arrays)
    learn(model, rows)
    moved = [model.arrays[name] - before[name] for name in before if name.startswith("weights/")]
    assert np.sqrt(sum((one**2).sum() for one in moved)) == pytest.approx(0.1 * 0.2, rel=1e-3)


# Exact resume

KINDS: dict[str, dict[str, Any]] = {
    "adam, average, replay": {**SPEC, **REPLAY},
    "momentum": {**PLAIN, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "dampening": 0.5}},
    "batch norm, dropout, passes": {**SPEC, "family": HERE + "normalized", "passes": 2, **REPLAY},
    "balanced": {**SPEC, **REPLAY, "balance": True, "restart": True},
    "expected lately": {**SPEC, **REPLAY, "balance": True, "prior": 15, "ema": 0.0},
    "distilled": {**SPEC, "terms": [{"kind": "distill"}], "memory": {"kind": "reservoir", "rows": 20}, "clip": 1.0},
    "by loss": {**SPEC, "terms": [{"kind": "replay"}], "memory": {"kind": "loss", "rows": 12}},
    "by gradient": {**SPEC, "terms": [{"kind": "replay"}], "memory": {"kind": "gradient", "rows": 12}},
    "nadam, schedule": {**SPEC, "optimizer": "nadam", "schedule": {"kind": "linear", "steps": 8, "warmup": 2}},
    "standardised": {**SPEC, "normalize": True},
    "hashed": {**SPEC, "family": "neural", "hashed": 16, "arguments": {"hidden": [8]}, "width": 3, **REPLAY},
    "regression": {**NUMBER, "normalize": True, "ema": 0.9},
    "nearest mean": {**SPEC, "head": "ncm", **REPLAY, "memory": {"rows": 12}},
    "drift": {**SPEC, "drift": {"detector": "page_hinkley", "grace_period": 20, "rate": 3.0}},
    "bfloat16": {**SPEC, "precision": "bfloat16"},
}
LENGTH = 75


def whole(spec: dict[str, Any]) -> tuple[Examples, Any, dict[str, bytes]]:
    rows = examples(LENGTH, spec["dense"], spec.get("classes", 0), hashed=spec.get("hashed", 0))
    model = el.build(spec)
    return rows, learn(model, rows), bytes_of(model.arrays)


WHOLE: dict[str, tuple[Examples, Any, dict[str, bytes]]] = {}


@pytest.mark.parametrize("kind", KINDS)
@given(cuts=st.lists(st.integers(1, LENGTH - 1), min_size=1, max_size=3, unique=True).map(sorted))
@settings(max_examples=6, deadline=None)
def test_a_model_stopped_anywhere_goes_on_as_if_it_had_not(kind: str, cuts: list[int]) -> None:
    spec = KINDS[kind]
    if kind not in WHOLE:
        WHOLE[kind] = whole(spec)
    rows, answers, expected = WHOLE[kind]
    model, said = el.build(spec), []
    for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        other = el.build(spec)
        learn(other, examples(17, spec["dense"], spec.get("classes", 0), seed=9, hashed=spec.get("hashed", 0)))
        torch.rand(3)  # nobody's business
        other.arrays = copied(model.arrays)
        model = other
        said.append(learn(model, cut(rows, start, stop)))
    assert np.concatenate(said).tobytes() == answers.tobytes()
    assert bytes_of(model.arrays) == expected


def test_learning_leaves_pytorchs_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    model = el.build({**SPEC, "family": HERE + "normalized"})
    learn(model, examples(40, DENSE, CLASSES))
    assert (torch.rand(4) == expected).all()


OPTIMIZERS = sorted(set(optimizer.known()) - {"lbfgs", "sparseadam", "muon"})  # of closures, sparse slopes, matrices


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_all_its_arrays_from_the_start(name: str) -> None:
    spec = {**PLAIN, "optimizer": {"name": name, "lr": 0.01}}
    model, rows = el.build(spec), examples(60, DENSE, CLASSES)
    layout = {name: (one.shape, one.dtype) for name, one in model.arrays.items()}
    held = dict(model.arrays)
    learn(model, cut(rows, 0, 33))
    assert {name: (one.shape, one.dtype) for name, one in model.arrays.items()} == layout
    assert all(model.arrays[name] is one for name, one in held.items())
    other = el.build(spec)
    other.arrays = copied(model.arrays)
    assert (learn(model, cut(rows, 33, 60)) == learn(other, cut(rows, 33, 60))).all()
    assert bytes_of(model.arrays) == bytes_of(other.arrays)
    assert not np.array_equal(model.arrays["weights/0.weight"], el.build(spec).arrays["weights/0.weight"])


class Counted(torch.optim.SGD):
    """An optimiser that keeps a plain number for each weight."""

    def step(self, closure: Any = None) -> Any:
        for one in self.param_groups[0]["params"]:
            self.state[one]["count"] = self.state[one].get("count", 0) + 1
        super().step()


def test_an_optimizer_of_ones_own_and_plain_numbers_in_its_state() -> None:
    model = el.build({**PLAIN, "optimizer": {"name": "tests.families.neural.test_model:Counted", "lr": 0.1}})
    learn(model, examples(35, DENSE, CLASSES))
    assert model.arrays["learn/optimizer/0.bias/count"] == 3
    twin = el.model.copy(model)
    learn(twin, examples(10, DENSE, CLASSES))
    assert twin.arrays["learn/optimizer/0.bias/count"] == 4


# What is answered, and what is learned


def test_classes_that_nobody_met_have_no_share() -> None:
    model, rows = el.build(SPEC), examples(40, DENSE, CLASSES)
    assert model.predict(rows.batch) == pytest.approx(np.full((40, 3), 1 / 3))
    rows.y[:20] = np.arange(20) % 2
    rows.y[20:] = 2.0
    learn(model, cut(rows, 0, 20))
    said = model.predict(rows.batch)
    assert (said[:, 2] == 0).all()
    assert (said[:, :2] > 0).all()
    assert model.arrays["classes"].tolist() == [10, 10, 0]
    learn(model, cut(rows, 20, 40))
    assert (model.predict(rows.batch)[:, 2] > 0).all()


def test_classes_known_to_the_module_are_answered_from_the_start() -> None:
    model, rows = el.build({**SPEC, "known": True}), examples(20, DENSE, CLASSES)
    expected = module_of(SPEC)(torch.from_numpy(rows.batch.dense)).softmax(1).detach().numpy()
    np.testing.assert_allclose(model.predict(rows.batch), expected, atol=1e-6)


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


def test_an_average_begins_anew_with_a_new_class() -> None:
    spec = {**SPEC, "restart": True, "optimizer": {"name": "sgd", "lr": 0.1}}
    model, rows = el.build(spec), examples(400, DENSE, CLASSES)
    rows.y[:] = np.where(np.arange(400) < 390, np.arange(400) % 2, 2)
    learn(model, cut(rows, 0, 390))
    before = model.arrays["weights/0.weight"].copy()
    learn(model, cut(rows, 390, 400))
    raw = model.arrays["learn/raw/0.weight"]
    np.testing.assert_allclose(model.arrays["weights/0.weight"], before / 3 + raw * 2 / 3, atol=1e-6)


def test_who_knows_a_border_can_say_so() -> None:
    spec = {**SPEC, "terms": [{"kind": "ewc"}], "consolidate": {}}
    model, rows = el.build(spec), examples(60, DENSE, CLASSES)
    learn(model, rows)
    anchors = {name: one.copy() for name, one in model.arrays.items() if "ewc" in name}
    model.consolidate()  # type: ignore[attr-defined]
    assert any((model.arrays[name] != one).any() for name, one in anchors.items())


def test_a_sudden_change_is_noticed_although_the_network_is_still_learning() -> None:
    rows = examples(4000, DENSE, 2)
    rows.y[:] = rows.batch.dense[:, 0] > 0
    rows.y[2500:] = 1 - rows.y[2500:]
    spec = {**SPEC, "task": "binary", "classes": 2, "drift": {"detector": "adwin"}, "optimizer": {"lr": 0.01}}
    model = el.build({**spec, "optimizer": {"name": "adam", "lr": 0.01}})
    learn(model, cut(rows, 0, 2500))
    assert model.arrays["learn/counts"][5] == 0
    learn(model, cut(rows, 2500, 2700))
    assert model.arrays["learn/counts"][5] == 1


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


def test_two_classes_are_not_new_to_each_other() -> None:
    model, rows = el.build({**SPEC, "task": "binary", "classes": 2}), examples(20, DENSE, 2)
    rows.y[:] = 1.0
    learn(model, rows)
    assert (model.predict(rows.batch)[:, 0] > 0).all()


@pytest.mark.parametrize(("y", "weight"), [(np.nan, 1.0), (np.inf, 1.0), (1e30, 1.0), (1.0, 0.0), (1.0, np.nan)])
def test_rows_that_cannot_be_learned_change_nothing(y: float, weight: float) -> None:
    model, rows = el.build({**NUMBER, **REPLAY}), examples(34, DENSE, 0)
    learn(model, rows)
    before = bytes_of(model.arrays)
    said = model.learn(cut(rows, 0, 1).batch, np.array([y]), np.array([weight], np.float32))
    np.testing.assert_allclose(said, model.predict(cut(rows, 0, 1).batch), atol=1e-6)
    assert bytes_of(model.arrays) == before


def test_unusable_rows_in_between_are_as_if_they_had_not_come() -> None:
    rows = examples(60, DENSE, CLASSES)
    rows.weight[np.arange(60) % 4 == 1] = 0.0
    keep = rows.weight > 0
    model, other = el.build({**SPEC, **REPLAY}), el.build({**SPEC, **REPLAY})
    said = learn(model, rows)
    expected = other.learn(plain(rows.batch.dense[keep]), rows.y[keep], rows.weight[keep])
    assert (said[keep] == expected).all()
    assert bytes_of(model.arrays) == bytes_of(other.arrays)


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


def test_gaps_are_the_mean_and_absurd_values_are_cut() -> None:
    rows = examples(200, DENSE, 2)
    model = el.build({**SPEC, "task": "binary", "classes": 2, "normalize": True})
    learn(model, rows)
    moments = model.arrays["inputs/moments"]
    np.testing.assert_allclose(moments[1], rows.batch.dense.mean(0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(moments[2] / 200, rows.batch.dense.var(0, dtype=np.float64), rtol=1e-6)
    gap, middle, far, edge = (rows.batch.dense[:1].copy() for _ in range(4))
    gap[0, 1], middle[0, 1] = np.nan, moments[1, 1]
    np.testing.assert_allclose(model.predict(plain(gap)), model.predict(plain(middle)), atol=1e-5)
    far[0, 1], edge[0, 1] = 3e38, moments[1, 1] + 10 * np.sqrt(moments[2, 1] / 200)
    np.testing.assert_allclose(model.predict(plain(far)), model.predict(plain(edge)), atol=1e-5)


def test_numbers_of_any_unit_are_learned_where_columns_are_standardised() -> None:
    rows = examples(3000, DENSE, 0)
    y = 1e6 + 5e4 * rows.y
    model = el.build({**NUMBER, "normalize": True, "ema": 0.9, "optimizer": {"name": "adam", "lr": 0.01}})
    said = model.learn(rows.batch, y, np.ones(3000, np.float32))
    left = said[2000:, 0].astype(np.float64) - y[2000:]
    assert (left**2).mean() / y.var() < 0.05


@pytest.mark.parametrize("normalize", [True, False])
def test_a_number_far_away_does_not_end_all_learning(normalize: bool) -> None:
    rows = examples(1500, DENSE, 0)
    rows.y[300] = 1e17
    model = el.build({**NUMBER, "normalize": normalize, "clip": 1.0, "optimizer": {"name": "adam", "lr": 0.01}})
    said = learn(model, rows)
    assert np.abs(said[1000:, 0] - rows.y[1000:]).mean() < (1.0 if normalize else 2.0)


# Images, sequences, losses


def test_a_shallow_copy_that_is_given_what_answers_learns_apart() -> None:
    model, rows = el.build(SPEC), examples(60, DENSE, CLASSES)
    learn(model, rows)
    before = bytes_of(model.arrays)
    twin = copy.copy(model)
    twin.arrays = {name: one.copy() for name, one in model.arrays.items() if not name.startswith("learn/")}
    assert bytes_of(twin.arrays) == before
    learn(twin, rows)
    assert bytes_of(model.arrays) == before
    assert bytes_of(twin.arrays) != before


def test_images_and_whole_numbers_in_memory() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 600)
    images = draw.integers(0, 120, (600, 1, 6, 6)) + 130 * y[:, None, None, None]
    spec = {
        "family": HERE + "pictures",
        "task": "binary",
        "dense": 36,
        "shape": (1, 6, 6),
        "scale": 1 / 255,
        "ema": 0.9,
        "terms": [{"kind": "replay"}],
        "memory": {"rows": 50, "dtype": "uint8", "augment": "shift"},
        "optimizer": {"name": "adam", "lr": 0.01},
    }
    model = el.build(spec)
    assert model.arrays["learn/pending/dense"].dtype == model.arrays["learn/memory/dense"].dtype == np.uint8
    said = model.learn(plain(images), y.astype(float), np.ones(600, np.float32))
    assert (said[300:].argmax(1) == y[300:]).mean() > 0.95
    assert model.composition()["rows"] == 50
    before = bytes_of(model.arrays)
    with pytest.raises(InputError, match="uint8 does not hold exactly"):
        model.learn(plain(images[:20] + 0.5), y[:20].astype(float), np.ones(20, np.float32))
    assert bytes_of(model.arrays) == before
    with pytest.raises(InputError, match=r"row 1 of the batch: column 0 is \d+\.5, which uint8 does not hold exactly"):
        model.predict(plain(np.concatenate([images[:1], images[:1] + 0.5])))  # nobody could learn it later


def test_sequences_by_a_transformer() -> None:
    draw = np.random.default_rng(1)
    tokens = draw.integers(0, 12, (900, 6))
    y = (tokens == 7).any(1)
    spec = {
        "family": HERE + "Reader",
        "task": "binary",
        "dense": 6,
        "shape": (6,),
        "dtype": "int64",
        "ema": 0.9,
        "optimizer": {"name": "adam", "lr": 0.01},
    }
    model = el.build(spec)
    assert not any("places" in name for name in model.arrays)  # made anew with the module
    said = model.learn(plain(tokens), y.astype(float), np.ones(900, np.float32))
    assert (said[500:].argmax(1) == y[500:]).mean() > 0.9
    with pytest.raises(InputError, match="expected tokens below the size of its embedding"):
        model.predict(plain([[12] * 6]))
    for odd in (-3, 2.5):
        with pytest.raises(InputError, match=f"column 1 is {odd}.*, expected a token: a whole number from 0"):
            model.predict(plain([[0, odd, 1, 2, 3, 4]]))
    assert (model.predict(plain([[np.nan, 1, 2, 3, 4, 5]])) == model.predict(plain([[0, 1, 2, 3, 4, 5]]))).all()


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


def test_the_built_in_network_learns_columns_and_hashed_features() -> None:
    rows = examples(2000, 3, 3, hashed=50)
    spec = {"family": "neural", "task": "multiclass", "classes": 3, "dense": 3, "hashed": 50, "width": 4, "ema": 0.99}
    model = el.build({**spec, "optimizer": {"name": "adam", "lr": 0.01}})
    said = learn(model, rows)
    assert (said[1000:].argmax(1) == rows.y[1000:]).mean() > 0.85
    assert model.arrays["weights/table.weight"].shape == (50, 64)


# Drift and consolidation


def test_a_rise_of_the_loss_raises_the_rate_for_a_while() -> None:
    rows = examples(1200, DENSE, 2)
    rows.y[600:] = 1 - rows.y[600:]
    spec = {**SPEC, "task": "binary", "classes": 2, "ema": 0.9, "optimizer": {"name": "adam", "lr": 0.01}}
    watching = {**spec, "drift": {"detector": "page_hinkley", "grace_period": 100, "rate": 4.0}}
    model, calm = el.build(watching), el.build(spec)
    learn(model, cut(rows, 0, 600))
    assert model.arrays["learn/counts"][DRIFTS] == 0
    learn(calm, cut(rows, 0, 600))
    assert (model.arrays["weights/0.weight"] == calm.arrays["weights/0.weight"]).all()
    after = learn(model, cut(rows, 600, 1200)), learn(calm, cut(rows, 600, 1200))
    assert model.arrays["learn/counts"][DRIFTS] == 1
    right = [(said[:300].argmax(1) == rows.y[600:900]).mean() for said in after]
    assert right[0] > right[1] + 0.05


def test_gdumb_learns_nothing_but_its_memory_when_it_is_time() -> None:
    rows = examples(60, DENSE, CLASSES)
    spec = {**SPEC, "terms": [{"kind": "gdumb", "epochs": 3}], "memory": {"rows": 40}, "consolidate": {"every": 50}}
    model = el.build(spec)
    before = copied(model.arrays)
    learn(model, cut(rows, 0, 49))
    assert (model.arrays["weights/0.weight"] == before["weights/0.weight"]).all()
    learn(model, cut(rows, 49, 50))
    assert (model.arrays["weights/0.weight"] != before["weights/0.weight"]).any()
    assert (model.arrays["weights/0.weight"] == model.arrays["learn/raw/0.weight"]).all()  # it serves at once


# Arrays


def test_who_serves_needs_no_array_that_only_learning_needs() -> None:
    model, rows = el.build({**SPEC, **REPLAY}), examples(60, DENSE, CLASSES)
    learn(model, rows)
    worker = el.build({**SPEC, **REPLAY})
    own = bytes_of({name: one for name, one in worker.arrays.items() if name.startswith("learn/")})
    worker.arrays = {name: one for name, one in model.arrays.items() if not name.startswith("learn/")}
    assert (worker.predict(rows.batch) == model.predict(rows.batch)).all()
    assert bytes_of({name: one for name, one in worker.arrays.items() if name.startswith("learn/")}) == own
    with pytest.raises(ModelError, match="'classes' is missing"):
        worker.arrays = {name: one for name, one in model.arrays.items() if name.startswith("weights/")}
    part = {name: one for name, one in model.arrays.items() if name != "learn/counts"}
    with pytest.raises(ModelError, match="'learn/counts' is missing"):
        worker.arrays = part


def test_who_serves_from_read_only_arrays_keeps_no_room_for_learning() -> None:
    model, rows = el.build({**SPEC, **REPLAY}), examples(60, DENSE, CLASSES)
    learn(model, cut(rows, 0, 25))
    worker, serving = copy.copy(model), copied(answering(model.arrays))
    for one in serving.values():
        one.flags.writeable = False
    worker.arrays = serving
    assert worker.arrays.keys() == serving.keys()
    assert sum(worker.memory_report()[group] for group in ("raw", "optimizer", "memory", "pending")) == 0  # type: ignore[attr-defined]
    assert worker.composition()["rows"] == 0  # type: ignore[attr-defined]
    assert (worker.predict(rows.batch) == model.predict(rows.batch)).all()
    worker.arrays = copied(serving)
    with pytest.raises(ModelError, match="to learn it needs all that learning needs"):
        learn(worker, rows)
    worker.arrays = copied(model.arrays)
    for one in (worker, model):
        learn(one, cut(rows, 25, 60))
    assert bytes_of(worker.arrays) == bytes_of(model.arrays)


def test_a_shallow_copy_with_arrays_of_its_own_stands_apart() -> None:
    model, rows = el.build({**SPEC, **REPLAY}), examples(60, DENSE, CLASSES)
    learn(model, cut(rows, 0, 25))
    twin, given = copy.copy(model), copied(model.arrays)
    twin.arrays = dict(given)
    assert all(twin.arrays[name] is one for name, one in given.items())  # nothing is copied
    before, said = bytes_of(model.arrays), model.predict(rows.batch)
    learn(twin, cut(rows, 25, 60))
    assert bytes_of(model.arrays) == before
    assert (model.predict(rows.batch) == said).all()
    assert (twin.predict(rows.batch) != said).any()
    learn(model, cut(rows, 25, 60))
    assert bytes_of(model.arrays) == bytes_of(twin.arrays)


def test_read_only_arrays_answer_and_do_not_learn() -> None:
    model, rows = el.build(SPEC), examples(25, DENSE, CLASSES)
    learn(model, rows)
    said, held = model.predict(rows.batch), copied(model.arrays)
    for one in held.values():
        one.flags.writeable = False
    rows.batch.dense.flags.writeable = False
    model.arrays = held
    assert (model.predict(rows.batch) == said).all()
    with pytest.raises(ModelError, match="around read-only arrays cannot learn"):
        learn(model, rows)


def test_arrays_are_live_views_and_of_a_fixed_layout() -> None:
    model, rows = el.build(SPEC), examples(25, DENSE, CLASSES)
    held = model.arrays["learn/raw/0.weight"]
    before = held.copy()
    learn(model, rows)
    assert (held != before).any()
    wrong = copied(model.arrays)
    wrong["weights/0.weight"] = wrong["weights/0.weight"][:, :2]
    with pytest.raises(ModelError, match=r"'weights/0.weight' has shape \(8, 2\), expected \(8, 5\)"):
        model.arrays = wrong
    report = model.memory_report()
    assert report["total"] == sum(one.nbytes for one in model.arrays.values())
    assert report["weights"] == sum(one.nbytes for name, one in model.arrays.items() if name.startswith("weights/"))
    assert report["peak"] == 0


def half_frozen(dense: int, outputs: int, bias: float = 0.5) -> nn.Module:
    module = neural_nets.perceptron(dense, outputs)
    module[0].requires_grad_(False)
    nn.init.constant_(module[0].bias, bias)
    return module


def test_weights_that_are_made_anew_are_not_stored_but_known() -> None:
    spec = {**SPEC, "family": "tests.families.neural.test_model:half_frozen", "frozen": "rebuilt"}
    model, rows = el.build(spec), examples(25, DENSE, CLASSES)
    learn(model, rows)
    assert "weights/0.weight" not in model.arrays
    twin = el.model.copy(model)
    assert (twin.predict(rows.batch) == model.predict(rows.batch)).all()
    other = el.build({**spec, "arguments": {"bias": 0.25}})
    with pytest.raises(ModelError, match="other weights that are not trained"):
        other.arrays = copied(model.arrays)
    kept = el.build({**spec, "frozen": "kept"})
    learn(kept, rows)
    assert (kept.predict(rows.batch) == model.predict(rows.batch)).all()
    assert "learn/raw/0.weight" not in kept.arrays  # one copy is enough of what does not change


# Making one


def test_a_family_may_be_a_function_or_a_class_of_modules() -> None:
    rows = examples(12, DENSE, CLASSES)
    by_name = el.build(SPEC)
    assert by_name.spec["family"] == "neural"
    assert by_name.spec["module"] == NET
    linear = {**SPEC, "family": "torch.nn:Linear", "arguments": {"in_features": DENSE, "out_features": CLASSES}}
    for spec in ({**SPEC, "family": "tests.families.neural.test_model:nothing_needed"}, linear):
        model = el.build(spec)
        learn(model, rows)
        assert isinstance(model, Neural)
    later = el.build({"family": NET})
    el.model.bind(later, {"task": "binary", "dense": 4, "hashed": 0, "classes": 2})
    assert later.arrays["weights/0.weight"].shape == (8, 4)
    with pytest.raises(ModelError, match="from the whole spec; expected parameters among"):
        el.build({**SPEC, "family": "tests.families.neural.test_model:of_a_spec"})


def nothing_needed() -> nn.Module:
    return nn.LazyLinear(CLASSES)


def of_a_spec(spec: Any) -> nn.Module:
    return neural_nets.perceptron(spec["dense"], 3)


def test_a_module_in_hand() -> None:
    model, rows = (
        el.Neural(nn.Linear(DENSE, 1), task="regression", dense=DENSE, loss=HERE + "pinball"),
        examples(40, DENSE, 0),
    )
    learn(model, rows)
    twin = copy.copy(model)
    twin.arrays = copied(model.arrays)
    assert (twin.predict(rows.batch) == model.predict(rows.batch)).all()
    with pytest.raises(ConfigError, match=r"made of a module in hand \(Linear\).*your_file:make_net"):
        el.build(model.spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "neural", "module": "nowhere:net"}, "no module 'nowhere' can be imported"),
        ({"family": "neural", "module": HERE + "nothing"}, "has no 'nothing'"),
        (
            {"family": "neural", "module": HERE + "examples", "arguments": {"n": 3}},
            "made a Examples, expected a torch.nn.M",
        ),
        ({"arguments": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"optimizer": "lion"}, "optimizer.name is 'lion', expected one of .*adamw"),
        ({"optimizer": {"name": "sgd", "rate": 0.1}}, "unexpected keyword argument 'rate'"),
        ({"optimizer": {"name": "adam", "lr": -1.0}}, "Invalid learning rate"),
        ({"optimizer": "lbfgs"}, "steps otherwise"),
        ({"loss": "hinge"}, "loss is 'hinge', expected 'your_module:function'"),
        ({"device": "tpu"}, "device is 'tpu', expected 'cpu', 'cuda'"),
        ({"shape": (2, 3)}, "shape is .2, 3. and dense is 5, expected 6"),
        ({"classes": 4, "arguments": {"outputs": 3}}, r"answered 2 rows with shape \(2, 3\), expected \(2, 4\)"),
        ({"arguments": {"dense": 7}}, r"the module cannot take rows \(float32 \(2, 5\)\)"),
        ({"precision": "float16"}, "'float16' is for GPUs"),
        ({"dtype": "int64", "normalize": True}, "normalize is true and dtype is 'int64'"),
        ({"ema": 1.0}, "ema: got 1.0; .*Known settings: .*passes"),
    ],
)
def test_wrong_dials_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        el.build({**SPEC, **change})


def broken(**parts: Any) -> Batch:
    dense, indptr = np.zeros((2, 1), np.float32), np.array([0, 1, 2])
    given = {"dense": dense, "indptr": indptr, "indices": np.array([0, 7], np.int32), "values": np.ones(2, np.float32)}
    return Batch(**{**given, **parts})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (broken(indices=np.array([0, 8], np.int32)), "row 1 .* outside the hash space; expected 0 to 7"),
        (broken(indices=np.array([-1, 0], np.int32)), "row 0 .* outside the hash space"),
        (broken(indptr=np.array([0, 2, 1])), "indptr is wrong at row 1"),
        (broken(indptr=np.array([0, 1, 99])), "indptr is wrong .* within the 2 entries"),
        (broken(values=np.ones(1, np.float32)), "indptr is wrong"),
        (broken(dense=np.zeros((2, 3), np.float32)), r"shape \(2, 3\), expected \(2, 1\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: Batch, message: str) -> None:
    model = el.build({"family": "neural", "task": "binary", "dense": 1, "hashed": 8})
    before = bytes_of(model.arrays)
    with pytest.raises(InputError, match=message):
        model.predict(batch)
    with pytest.raises(InputError, match=message):
        model.learn(batch, np.zeros(2), np.ones(2, np.float32))
    assert bytes_of(model.arrays) == before


def test_a_label_that_is_no_class_is_refused_and_nothing_is_learned() -> None:
    model, rows = el.build(SPEC), examples(30, DENSE, CLASSES)
    before = bytes_of(model.arrays)
    rows.y[21] = 3.0
    with pytest.raises(InputError, match="row 21 of the batch is not a class; expected a whole number from 0 to 2"):
        learn(model, rows)
    with pytest.raises(InputError, match=r"30 rows came with y \(29,\)"):
        model.learn(rows.batch, rows.y[:29], rows.weight)
    assert bytes_of(model.arrays) == before


def test_rows_together_cost_one_pass_where_they_need_not_be_answered_one_at_a_time() -> None:
    rows = examples(55, DENSE, CLASSES)
    model, exact = el.build({**SPEC, "one_at_a_time": False}), el.build(SPEC)
    np.testing.assert_allclose(learn(model, rows), learn(exact, rows), atol=1e-5)
    np.testing.assert_allclose(model.predict(rows.batch), exact.predict(rows.batch), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu_arrays_are_copies_and_memory_is_constant(precision: str) -> None:
    spec = {**SPEC, **REPLAY, "device": "cuda", "precision": precision, "batch": 16}
    rows = examples(1600, DENSE, CLASSES)
    model, on_cpu = el.build(spec), el.build({**SPEC, **REPLAY, "batch": 16})
    learn(model, cut(rows, 0, 800))
    held = model.arrays
    peak = model.memory_report()["peak"]
    assert peak > 0
    twin = el.model.copy(model)
    said = learn(model, cut(rows, 800, 1600))
    assert any((held[name] != one).any() for name, one in model.arrays.items())
    assert model.memory_report()["peak"] <= 2 * peak
    np.testing.assert_allclose(learn(twin, cut(rows, 800, 1600)), said, atol=1e-3)
    expected = learn(on_cpu, rows)[800:]
    assert (said.argmax(1) == expected.argmax(1)).mean() > 0.95


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own parts
def test_a_compiled_network_says_what_it_says_otherwise() -> None:
    rows = examples(25, DENSE, CLASSES)
    exact = learn(el.build(PLAIN), rows)
    try:
        said = learn(el.build({**PLAIN, "compile": True}), rows)
    except torch._dynamo.exc.BackendCompilerFailed as error:  # no compiler on this machine
        pytest.skip(str(error).splitlines()[0])
    np.testing.assert_allclose(said, exact, atol=1e-4)


@pytest.mark.parametrize("terms", [["replay"], ["distill"], ["distill", "replay"]])
def test_a_memory_that_kernels_do_not_reach_makes_the_same_minibatches(terms: list[str]) -> None:
    """As on a GPU: here because no kernel knows float16; of small whole numbers it holds what float32 does."""
    rows = examples(95, DENSE, CLASSES)
    rows.batch.dense[:] = np.round(rows.batch.dense * 4)
    spec = {**SPEC, "balance": True, "terms": [{"kind": one} for one in terms]}
    near, far = (el.build({**spec, "memory": {"rows": 30, "dtype": dtype}}) for dtype in ("float32", "float16"))
    assert (learn(near, rows) == learn(far, rows)).all()
    for name, one in near.arrays.items():
        if name != "learn/memory/dense":
            assert (far.arrays[name] == one).all(), name
    assert (far.arrays["learn/memory/dense"] == near.arrays["learn/memory/dense"]).all()
