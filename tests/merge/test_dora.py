"""DoRA adapters are merged as the weights that they make."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from torch import nn  # noqa: E402

import everlearn as el  # noqa: E402
from everlearn.errors import ConfigError, ModelError  # noqa: E402
from everlearn.merge import merge  # noqa: E402
from everlearn.records import Batch, Singles  # noqa: E402
from tests.support.neural_nets import one_thread  # noqa: E402, F401

X = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
ROWS = Batch(X, np.zeros(301, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
TARGETS = [2.0, 0.0, 0.0, 0.0], [0.0, -1.0, 3.0, 0.0]


class Net(nn.Module):
    """One adapted layer, linear or a convolution, in which outputs are linear."""

    def __init__(self, convolution: bool, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.adapted = nn.Conv1d(1, 4, 4, bias=bias) if convolution else nn.Linear(4, 4, bias=bias)
        self.fixed = nn.Linear(4, 1, bias=False)
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fixed(self.adapted(x[:, None]).flatten(1) if self.convolution else self.adapted(x))


def learned(
    target: list[float],
    lora: dict[str, Any],
    convolution: bool = False,
    bias: bool = False,
    rows: int = 300,
    **more: Any,
) -> Any:
    chosen = {"normalize": False, "ema": 0, "terms": [], "optimizer": {"name": "adam", "lr": 0.02}, **more}
    lora = {"rank": 4, "targets": ["adapted"], **lora}
    model = el.Neural(Net(convolution, bias), task="regression", dense=4, lora=lora, **chosen)
    if rows:
        model.learn(ROWS, (X @ np.array(target)).astype(float), np.ones(300, np.float32))
    return model


def predictions(model: Any, arrays: Any) -> Singles:
    other = copy.copy(model)
    other.arrays = arrays
    return other.predict(ROWS)


@pytest.mark.parametrize("lora", [{}, {"dora": True}, {"rslora": True}, {"dora": True, "rslora": True}])
@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_merged_adapter_says_the_mean_of_its_parents(lora: dict[str, Any], convolution: bool, bias: bool) -> None:
    a, b = (learned(target, lora, convolution, bias) for target in TARGETS)
    mean = 0.75 * a.predict(ROWS) + 0.25 * b.predict(ROWS)
    merged = predictions(a, merge("linear", [a.arrays, b.arrays], [3, 1], spec=a.spec))
    np.testing.assert_allclose(merged, mean, atol=1e-4 * float(mean.std()))


def test_a_dora_adapter_merged_with_itself_says_the_same() -> None:
    a = learned(TARGETS[0], {"dora": True, "rank": 2})
    merged = merge("linear", [a.arrays, a.arrays], spec=a.spec)
    np.testing.assert_allclose(predictions(a, merged), a.predict(ROWS), atol=1e-4)


@pytest.mark.parametrize("method", ["task", "ties", "dare"])
def test_methods_with_an_ancestor_see_the_weights_that_adapters_make(method: str) -> None:
    start = learned(TARGETS[0], {"dora": True}, rows=0)
    a = learned(TARGETS[0], {"dora": True})
    merged = merge(method, [a.arrays, start.arrays], [1.0, 1.0], spec=a.spec, ancestor=start.arrays, density=1.0)
    np.testing.assert_allclose(predictions(a, merged), a.predict(ROWS), atol=1e-3)


def test_the_trained_weights_behind_an_average_are_merged_too() -> None:
    a, b = (learned(target, {"dora": True}, ema=0.9) for target in TARGETS)
    merged = merge("linear", [a.arrays, b.arrays], spec=a.spec)
    names = [name for name in merged if "magnitude" in name and "optimizer" not in name]
    assert {name.split("adapted")[0] for name in names} == {"weights/", "learn/raw/"}
    assert all((merged[name] != a.arrays[name]).any() for name in names)
    mean = (a.predict(ROWS) + b.predict(ROWS)) / 2
    np.testing.assert_allclose(predictions(a, merged), mean, atol=1e-3 * float(mean.std()))


def test_dora_without_its_frozen_weights_or_its_spec_is_refused() -> None:
    a = learned(TARGETS[0], {"dora": True})
    with pytest.raises(ModelError, match=r"DoRA adapters without the spec of their model.*Pass spec=model.spec"):
        merge("linear", [a.arrays, a.arrays])
    lost = {name: array for name, array in a.arrays.items() if "base_layer" not in name}
    with pytest.raises(ModelError, match=r"adapted.base_layer.weight' is not in the snapshot.*frozen = 'kept'"):
        merge("linear", [lost, lost], spec=a.spec)


@pytest.mark.parametrize("lora", [{"dora": True}, {}])
def test_dora_on_a_square_transposed_weight_is_refused(lora: dict[str, Any]) -> None:
    transposed = pytest.importorskip("transformers.pytorch_utils").Conv1D(4, 4)
    chosen = {"rank": 4, "targets": ["0"], **lora}
    net = nn.Sequential(transposed, nn.Linear(4, 1))
    if not lora:
        el.Neural(net, task="regression", dense=4, lora=chosen)
        return
    with pytest.raises(ConfigError, match=r"lora.dora: got true for '0'.*\(4, 4\).*stored transposed"):
        el.Neural(net, task="regression", dense=4, lora=chosen)


def transposed() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(Conv1D(4, 4), nn.Linear(4, 1))


def test_a_stored_model_with_dora_on_a_square_transposed_weight_still_opens() -> None:
    pytest.importorskip("transformers")
    lora = {"rank": 4, "targets": ["0"], "dora": True}
    spec = {"family": f"{__name__}:transposed", "task": "regression", "dense": 4, "lora": lora}
    with pytest.raises(ConfigError, match="lora.dora"):
        el.build(spec)
    stored = el.build({**spec, "layout": 1})  # release 0.1.0 did not refuse it
    assert any("magnitude" in name for name in stored.arrays)
    assert el.build(stored.spec).arrays.keys() == stored.arrays.keys()
