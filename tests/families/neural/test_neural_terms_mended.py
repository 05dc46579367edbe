"""Terms where a network, a memory or a label is not of the plain kind: what they do then, or how they refuse it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import everlearn as el
from everlearn._torch import Tensor, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural import fisher
from everlearn.families.neural.contract import Rows
from everlearn.families.neural.terms import fitting, kind
from everlearn.families.neural.terms.plasticity import CONTINUAL_BACKPROP, ContinualBackprop, L2Init, units
from everlearn.families.neural.terms.replay import Agem, Distill, Gdumb, Replay
from everlearn.model import copied, cut
from tests.support.neural_nets import HERE, Forgetful, examples
from tests.support.neural_terms import net_of, rows_of, seen_of

FORGETFUL = {"family": HERE + "Forgetful", "task": "multiclass", "classes": 3, "dense": 5}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    yield
    torch.set_num_threads(before)


class Called(nn.Module):
    """Layers called as a function says."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._said = forward

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self._said(self, x)
        return said


def rows_like(*shape: int) -> Rows:
    return Rows((torch.randn(*shape),), torch.zeros(shape[0], dtype=torch.int64), torch.ones(shape[0]))


# Continual backprop


def test_units_of_a_sequence_that_is_flattened_are_found_at_each_of_its_places() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3))
    net, spec = net_of(module, 3), ContinualBackprop(rate=1 / 6, maturity=0, decay=0.0)
    own = CONTINUAL_BACKPROP.start(spec, net)
    with torch.no_grad():
        module[0].weight[2], module[0].bias[2] = 0.0, 0.0  # a unit that says nothing
    rows = rows_like(64, 5, 4)
    before = module(rows.x[0]).detach()
    said = module[1](module[0](rows.x[0])).mean(0).detach()
    wanted = (said * module[3].weight.detach().abs().sum(0).view(5, 6)).sum(0)
    CONTINUAL_BACKPROP.stepped(ContinualBackprop(rate=0.0, decay=0.0), net, own, seen_of(net, rows))
    torch.testing.assert_close(own["utility/0->3"], wanted)
    CONTINUAL_BACKPROP.stepped(spec, net, own, seen_of(net, rows))
    assert own["age/0->3"].tolist() == [2, 2, 0, 2, 2, 2]
    assert torch.nonzero((module[3].weight == 0).all(0))[:, 0].tolist() == [2, 8, 14, 20, 26]
    torch.testing.assert_close(module(rows.x[0]).detach(), before)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 6), nn.MaxPool2d(1), nn.Flatten(), nn.Linear(30, 3)),
        Called(
            lambda own, x: own.last(functional.avg_pool2d(own.first(x), 1)), first=nn.Linear(4, 6), last=nn.Linear(6, 3)
        ),
        nn.Sequential(nn.Linear(4, 6), nn.Conv2d(6, 3, 1)),
    ],
    ids=["pooled", "pooled by a function", "channels that are no units"],
)
def test_units_that_are_mixed_behind_a_linear_layer_are_none(module: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no hidden units it can replace"):
        units(net_of(module, 3))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (
            Called(
                lambda own, x: own.last(own.first(x).view(x.shape[0], 2, 3)).flatten(1),
                first=nn.Linear(4, 6),
                last=nn.Linear(3, 3),
            ),
            (8, 4),
        ),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(2), nn.Linear(16, 3), nn.Flatten()), (8, 1, 4, 4)),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Linear(4, 3), nn.Flatten()), (8, 1, 4, 4)),
    ],
    ids=["units that are split", "flattened places", "places heard"],
)
def test_shapes_that_do_not_keep_units_apart_are_refused(module: nn.Module, shape: tuple[int, ...]) -> None:
    net, rows = net_of(module, 3), rows_like(*shape)
    own = CONTINUAL_BACKPROP.start(ContinualBackprop(), net)
    with pytest.raises(ConfigError, match="expected shapes that keep units apart"):
        CONTINUAL_BACKPROP.stepped(ContinualBackprop(), net, own, seen_of(net, rows))


# Fisher information and sensitivity


def definition(net: Any, rows: Rows, power: int) -> dict[str, Tensor]:
    """The mean over rows, each taken alone, of |gradient|^power: of the loss of its label, or of its squared norm."""
    total = {name: torch.zeros_like(one) for name, one in net.weights.items()}
    for row in range(len(rows)):
        x = tuple(one[row : row + 1] for one in rows.x)
        one = Rows(x, rows.y[row : row + 1], rows.weight[row : row + 1])
        asked = net.losses(net.call(x), one).sum() if power == 2 else net.call(x).square().sum()
        slopes = torch.autograd.grad(asked, list(net.weights.values()), materialize_grads=True)
        for name, slope in zip(total, slopes, strict=True):
            total[name] += slope.abs() ** power / len(rows)
    return total


@pytest.mark.parametrize("dials", [{"padding_idx": 0}, {"scale_grad_by_freq": True}], ids=["padding", "frequency"])
def test_bags_with_gradients_of_their_own_kind_are_taken_row_by_row(dials: dict[str, Any]) -> None:
    layers = {"table": nn.EmbeddingBag(6, 4, mode="sum", **dials), "last": nn.Linear(4, 3)}
    net = net_of(Called(lambda own, x: own.last(torch.tanh(own.table(x))), **layers), 3)
    nn.init.normal_(net.weights["table.weight"])
    x = torch.tensor([[1, 2], [3, 4], [0, 5], [5, 5], [0, 0]])
    rows = Rows((x,), torch.tensor([0, 1, 2, 0, 1]), torch.ones(5))
    for found, power in ((fisher.diagonal(net, rows, "data"), 2), (fisher.sensitivity(net, rows), 1)):
        for name, one in definition(net, rows, power).items():
            torch.testing.assert_close(found[name], one)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_sequence_with_its_steps_first_is_told_from_rows(steps: int, n: int) -> None:
    net = net_of(Called(lambda own, x: torch.tanh(own.one(x.transpose(0, 1))).sum(0), one=nn.Linear(3, 4)), 4)
    rows = Rows((torch.randn(n, steps, 3),), torch.arange(n) % 4, torch.ones(n))
    for found, power in ((fisher.diagonal(net, rows, "data"), 2), (fisher.sensitivity(net, rows), 1)):
        for name, one in definition(net, rows, power).items():
            torch.testing.assert_close(found[name], one)
    with pytest.raises(ConfigError, match="layer 'one' is not used once, row by row"):
        fisher.kronecker(net, rows)


def test_factors_of_no_layer_leave_the_diagonal_for_all() -> None:
    net, rows = net_of(Forgetful(4, 3), 3), rows_of(12, 4, 3)
    made, other = fisher.kronecker(net, rows)
    assert made == {}
    for name, one in fisher.diagonal(net, rows).items():
        torch.testing.assert_close(other[name], one)


def test_ewc_with_factors_learns_where_all_linear_layers_are_tied() -> None:
    terms = [{"kind": "ewc", "fisher": "kronecker"}]
    model = el.build({**FORGETFUL, "terms": terms, "consolidate": {"every": 20}})
    some = examples(40, 5, 3)
    model.learn(some.batch, some.y, some.weight)
    assert model.arrays["learn/terms/0-ewc/fisher/up.weight"].any()


# Replay of what is interfered with most


def test_a_look_at_what_a_step_harms_leaves_buffers_that_are_replaced() -> None:
    terms = [{"kind": "replay", "retrieve": "interfered"}]
    model = el.build({**FORGETFUL, "normalize": False, "ema": 0.0, "memory": {"rows": 200}, "terms": terms})
    some = examples(200, 5, 3)
    model.learn(some.batch, some.y, some.weight)
    # twenty steps: one pass of the new rows each, and one of the remembered ones where any are held
    assert int(model.arrays["weights/passes"]) == 20 + 19


# GDumb


def gdumb(family: str, **dials: Any) -> dict[str, Any]:
    return {
        "family": HERE + family,
        "task": "multiclass",
        "classes": 3,
        "dense": 5,
        "ema": 0.0,
        "terms": [{"kind": "gdumb", "epochs": 2}],
        "memory": {"rows": 33},
        "consolidate": {"every": 50},
        **dials,
    }


def test_gdumb_learns_a_memory_whose_last_minibatch_would_be_one_row() -> None:
    model, some = el.build(gdumb("normalized")), examples(60, 5, 3)
    before = model.arrays["weights/0.weight"].copy()
    model.learn(some.batch, some.y, some.weight)
    assert (model.arrays["weights/0.weight"] != before).any()


@pytest.mark.parametrize("family", ["perceptron", "normalized"])
def test_nothing_moves_between_consolidations_of_gdumb(family: str) -> None:
    optimizer = {"name": "adamw", "lr": 0.01, "weight_decay": 0.5}
    model, some = el.build(gdumb(family, optimizer=optimizer, memory={"rows": 40})), examples(190, 5, 3)
    one = cut(some, 0, 100)
    model.learn(one.batch, one.y, one.weight)
    names = [name for name in model.arrays if name.startswith("weights/")]
    before = {name: model.arrays[name].copy() for name in names}
    resumed = el.build(model.spec)
    resumed.arrays = copied(model.arrays)
    for rows, learner in ((cut(some, 100, 140), model), (cut(some, 100, 140), resumed)):
        learner.learn(rows.batch, rows.y, rows.weight)
        assert all((learner.arrays[name] == before[name]).all() for name in names)
    for rows, learner in ((cut(some, 140, 190), model), (cut(some, 140, 190), resumed)):
        learner.learn(rows.batch, rows.y, rows.weight)
    assert all((model.arrays[name] == resumed.arrays[name]).all() for name in model.arrays)
    assert any((model.arrays[name] != before[name]).any() for name in names)


# Terms that do not go together, or not with the memory


@pytest.mark.parametrize("term", [Replay(), Distill(), Agem(), Gdumb()])
def test_terms_of_remembered_rows_need_a_memory(term: Any) -> None:
    name = kind(term)
    with pytest.raises(ConfigError, match=f"term '{name}' draws from the memory and memory.kind is 'none'; expected"):
        fitting((L2Init(), term), "none")
    assert fitting((L2Init(), term), "none", told=False) == (L2Init(),)
    assert fitting((L2Init(), term), "window") == (L2Init(), term)
    assert fitting((), "none") == ()


@pytest.mark.parametrize("terms", [(Replay(), Gdumb()), (Gdumb(), L2Init(), Replay()), (Replay(), Replay(rows=3))])
def test_one_term_at_most_replaces_the_loss_of_the_rows_that_come(terms: Any) -> None:
    named = " and ".join(repr(kind(one)) for one in terms if not isinstance(one, L2Init))
    with pytest.raises(ConfigError, match=f"terms {named} both replace the loss of the rows that come; expected"):
        fitting(terms, "balanced")
    assert fitting((Replay(), Distill(), Agem()), "balanced") == (Replay(), Distill(), Agem())


# Answers that are remembered


def test_answers_of_a_regression_are_remembered_in_the_unit_of_its_labels() -> None:
    spec = {"family": HERE + "line", "task": "regression", "dense": 5, "normalize": True, "ema": 0.0}
    more = {"optimizer": {"name": "adam", "lr": 0.05}, "terms": [{"kind": "distill"}], "memory": {"rows": 100}}
    model, rows = el.build({**spec, **more}), examples(1000, 5, 0)
    rows.y[:] = 1000.0 + 50.0 * rows.batch.dense[:, 0]
    model.learn(rows.batch, rows.y, rows.weight)
    late = model.arrays["learn/memory/position"] >= 500
    said, labels = model.arrays["learn/memory/said"][late, 0], model.arrays["learn/memory/y"][late]
    assert late.sum() > 20
    assert abs(said - labels).mean() < 10.0
    rows.y[:] += 5000.0  # the same answers are other deviations from another level
    model.learn(rows.batch, rows.y, rows.weight)
    held = torch.cat([one.said for one in model._learner.remembered() if one.said is not None])  # type: ignore[attr-defined]
    kept, moments = model.arrays["learn/memory/said"][:, 0], model.arrays["inputs/moments"][:, -1]
    spread = (moments[2] / moments[0]) ** 0.5
    assert sorted(held[:, 0].tolist()) == pytest.approx(sorted((kept - moments[1]) / spread), abs=1e-4)


def test_a_network_without_a_memory_has_no_terms_of_remembered_rows() -> None:
    spec = {**FORGETFUL, "memory": {"kind": "none"}}
    assert not el.build(spec).spec["terms"]
    with pytest.raises(ConfigError, match="term 'replay' draws from the memory and memory.kind is 'none'"):
        el.build({**spec, "terms": [{"kind": "replay"}]})
    with pytest.raises(ConfigError, match="'replay' and 'gdumb' both replace the loss"):
        el.build({**FORGETFUL, "terms": [{"kind": "replay", "loss": "asymmetric"}, {"kind": "gdumb"}]})
    with pytest.raises(ConfigError, match="head is 'ncm', which answers by means of remembered rows"):
        el.build({**spec, "head": "ncm"})
