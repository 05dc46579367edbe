"""Buffers in exported adapters: running statistics are learned, too, and answers depend on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.numpy import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import everlearn as el  # noqa: E402
from everlearn.errors import BlobError  # noqa: E402
from everlearn.families.neural.lora import CONFIG, WEIGHTS, adapt, export, fill, load  # noqa: E402
from everlearn.families.neural.settings import Lora  # noqa: E402
from everlearn.records import Batch, Singles  # noqa: E402
from tests.support.neural_nets import one_thread  # noqa: E402, F401

DRAW = np.random.default_rng(0)
X = DRAW.normal(3, 2, (600, 4)).astype(np.float32)
Y = (X[:, 0] > 3) * 1.0 + (X[:, 1] > 3)
ROWS = Batch(X, np.zeros(601, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


class Stretch(nn.Module):
    """A module with a running mean, a whole number, a cache that is not stored, and no parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("cache", torch.arange(width, dtype=torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            self.calls = self.calls + 1
        return x - self.mean + 0.01 * self.cache


class Around(nn.Module):
    """A module that holds both a running mean and the layers with adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.last(torch.relu(self.first(x - self.mean)))


def make(norm: str) -> nn.Module:
    torch.manual_seed(0)
    if norm == "around":
        return Around()
    layers = {"batch": nn.BatchNorm1d(16), "layer": nn.LayerNorm(16), "own": Stretch(16), "group": nn.GroupNorm(4, 16)}
    layers["plain batch"] = nn.BatchNorm1d(16, affine=False)
    return nn.Sequential(nn.Linear(4, 16), layers[norm], nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def learned(norm: str, lora: dict[str, object]) -> tuple[nn.Module, Singles]:
    """Return an adapted module with the weights of a model that learned, and what the model predicts."""
    spec = {"normalize": False, "new_classes": "fixed", "optimizer": {"name": "adam", "lr": 0.01}}
    model = el.Neural(make(norm), task="multiclass", dense=4, classes=3, lora=lora, **spec)
    model.learn(ROWS, Y, np.ones(600, np.float32))
    return fill(adapt(make(norm), Lora(**lora)), model.arrays), model.predict(ROWS)


def answers(module: nn.Module) -> Singles:
    with torch.no_grad():
        return np.asarray(torch.softmax(module.eval()(torch.from_numpy(X)), 1).numpy())


@pytest.mark.parametrize("norm", ["batch", "plain batch", "layer", "group", "own"])
@pytest.mark.parametrize("lora", [{"rank": 4}, {"rank": 4, "also": ["1"]}, {"rank": 4, "dora": True}, {"rslora": True}])
def test_reloaded_adapters_answer_as_the_model_that_learned(norm: str, lora: dict[str, object], tmp_path: Path) -> None:
    module, served = learned(norm, lora)
    export(module, tmp_path)
    ours = load(adapt(make(norm), Lora(**lora)), tmp_path)
    theirs = peft.PeftModel.from_pretrained(make(norm), tmp_path)
    np.testing.assert_allclose(answers(ours), served, atol=1e-5)
    np.testing.assert_allclose(answers(theirs), served, atol=1e-5)


def test_only_modules_with_buffers_of_floats_are_written_whole(tmp_path: Path) -> None:
    for norm, whole in (("layer", ["5"]), ("group", ["5"]), ("batch", ["1", "5"]), ("own", ["1", "5"])):
        export(adapt(make(norm), Lora(rank=2)), tmp_path / norm)
        assert json.loads((tmp_path / norm / CONFIG).read_text())["modules_to_save"] == whole
    names = {name for name in load_file(tmp_path / "own" / WEIGHTS) if ".1." in name}
    assert names == {"base_model.model.1.mean", "base_model.model.1.calls"}  # the cache is made with the module
    names = {name.rpartition(".")[2] for name in load_file(tmp_path / "batch" / WEIGHTS) if ".1." in name}
    assert names == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def test_buffers_around_adapters_are_read_back(tmp_path: Path) -> None:
    module, served = learned("around", {"rank": 4})
    export(module, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["modules_to_save"] == ["last"]
    np.testing.assert_allclose(answers(load(adapt(make("around"), Lora(rank=4)), tmp_path)), served, atol=1e-5)


def test_adapters_without_statistics_leave_those_of_the_module(tmp_path: Path) -> None:
    export(learned("batch", {"rank": 2})[0], tmp_path)
    held = load_file(tmp_path / WEIGHTS)
    save_file({name: value for name, value in held.items() if ".1." not in name}, tmp_path / WEIGHTS)
    other = load(adapt(make("batch"), Lora(rank=2)), tmp_path)
    assert not other.get_buffer("1.running_mean").any()


def test_half_of_the_statistics_are_refused(tmp_path: Path) -> None:
    export(learned("batch", {"rank": 2})[0], tmp_path)
    held = load_file(tmp_path / WEIGHTS)
    save_file({name: value for name, value in held.items() if "running_var" not in name}, tmp_path / WEIGHTS)
    with pytest.raises(BlobError, match=r"1.running_var is missing"):
        load(adapt(make("batch"), Lora(rank=2)), tmp_path)


def test_the_paths_of_the_first_release_lead_to_the_same_functions() -> None:
    from everlearn.neural import Neural, lora, settings

    assert (Neural, lora.export, settings.Lora) == (el.Neural, export, Lora)
