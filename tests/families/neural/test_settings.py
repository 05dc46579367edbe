"""What is said of a network that cannot be: which dial, what was got, what it may be, and what the user's code said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import everlearn as el
from everlearn._torch import nn
from everlearn.errors import ConfigError
from everlearn.families.neural.settings import read

NETS = """
from torch import nn

def crash(): raise RuntimeError("weights file not found")
def careful(spec): raise RuntimeError("no such spec")
def optional(spec=None):
    if spec is None: raise RuntimeError("needs a spec")
    raise RuntimeError("got a spec")
def pictures(outputs): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(outputs))
def tokens(outputs): return nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.LazyLinear(outputs))
def sparse(outputs): return nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.LazyLinear(outputs))
def line(dense, outputs): return nn.Linear(dense, outputs)
def steps(outputs): return nn.LSTM(4, outputs, batch_first=True)

class Unpacks(nn.Module):
    def __init__(self, outputs): super().__init__(); self.last = nn.Linear(4, outputs)
    def forward(self, x):
        rows, steps, channels = x.shape
        return self.last(x.mean(1))

class Picks(Unpacks):
    def forward(self, x): return self.last(x[:, :, 0])
"""
SHAPE = {"task": "multiclass", "dense": 16, "classes": 3}


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of a user, in the current folder."""
    (tmp_path / "users_nets.py").write_text(NETS)
    (tmp_path / "users_slip.py").write_text("def net(:\n")
    (tmp_path / "users_wish.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ema": 2}, r"ema is 2, expected `float` < 1.0; known dials: family, "),
        ({"ema": "long"}, r"ema is 'long', expected `float`"),
        ({"emma": 0.9}, r"emma is 0.9, and there is no such dial; known dials: family, "),
        ({"dtype": "int8"}, r"dtype is 'int8', expected one of 'float32', 'int64'"),
        ({"terms": [{"kind": "replya"}]}, r"terms\[0\].kind is 'replya', expected one of 'agem', .*'replay', .*'si'$"),
        ({"terms": [{"strength": 1}]}, r"terms\[0\] lacks 'kind'; expected kind to be one of 'agem', .*'si'$"),
        (
            {"terms": [{"kind": "replay"}, {"kind": "ewc", "lambda": 3}]},
            r"terms\[1\].lambda is 3, and there is no such dial; known dials of ewc: strength, decay, fisher, labels$",
        ),
        (
            {"terms": [{"kind": "ewc", "fisher": "full"}]},
            r"terms\[0\].fisher is 'full', expected one of 'block', 'diagonal', 'kronecker'; known dials of ewc: ",
        ),
        ({"terms": [3]}, r"terms\[0\] is 3, expected `object`"),
        (
            {"memory": {"kind": "fifo"}},
            r"memory.kind is 'fifo', expected one of 'balanced', .*'window'; known dials of memory: kind, rows,",
        ),
        ({"memory": {"dtype": "int8"}}, r"memory.dtype is 'int8', expected one of 'float16', 'float32', 'int16'"),
        ({"memory": {"row": 9}}, r"memory.row is 9, .*known dials of memory: kind, rows, bytes, dtype, augment$"),
        ({"schedule": {"kind": "step"}}, r"schedule.kind is 'step', expected one of 'constant', 'cosine', 'linear'"),
        ({"drift": {"detector": "eddm"}}, r"drift.detector is 'eddm', expected one of 'adwin', .*'page_hinkley'"),
        ({"lora": {"rank": 0}}, r"lora.rank is 0, expected `int` >= 1; known dials of lora: rank, alpha"),
        ({"heads": [[0, -1]]}, r"heads\[0\]\[1\] is -1, expected `int` >= 0"),
        ({"arguments": {1: 2}}, r"arguments is \{1: 2\}, expected `str`"),
        ({"task": "ranking"}, r"task is 'ranking', expected one of 'binary', 'multiclass', 'regression'"),
    ],
)
def test_a_wrong_dial_is_told_by_its_path_with_what_it_was_and_may_be(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^neural model: {words}"):
        read(SHAPE | change)


def test_a_dial_that_must_be_there_is_named() -> None:
    with pytest.raises(ConfigError, match="the spec lacks 'task'; known dials: "):
        read({"dense": 4})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 0}, "classes is 0 and task is 'multiclass', expected at least 2"),
        ({"task": "binary"}, "classes is 3 and task is 'binary', expected 2"),
        ({"task": "regression"}, "classes is 3 and task is 'regression', expected 0"),
        ({"task": "regression", "classes": 0, "heads": [[0]]}, "heads are .* task is 'regression', .*leave heads out"),
    ],
)
def test_classes_and_heads_fit_the_task(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        el.build({"family": "neural", **SHAPE, **change})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"family": "users_nets:crash"}, "calling 'users_nets:crash' failed: RuntimeError: weights file not found"),
        (
            {"family": "users_nets:careful"},
            "'users_nets:careful' could not build a model .*: RuntimeError: no such spec",
        ),
        (
            {"family": "users_nets:optional"},
            "'users_nets:optional' could not build a model .*: RuntimeError: got a spec",
        ),
        ({"module": "users_nets:crash"}, "'users_nets:crash' .*made no module: RuntimeError: weights file not found"),
        ({"family": "users_slip:net"}, "'users_slip:net': importing 'users_slip' failed: SyntaxError: .*line 1"),
        ({"module": "users_slip:net"}, "'users_slip:net', and importing 'users_slip' failed: SyntaxError: .*line 1"),
        ({"family": "users_wish:net"}, "importing 'users_wish' failed: ModuleNotFoundError: .*nothing_of_that_name"),
        ({"module": "users_wish:net"}, "importing 'users_wish' failed: ModuleNotFoundError: .*nothing_of_that_name"),
    ],
)
def test_what_went_wrong_in_code_of_the_user_is_told_with_its_name(
    nets: None, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        el.build({"family": "neural", **SHAPE, **spec})
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("pictures", {}, r"Expected 3D .*; rows come flat, as 16 numbers: set shape to"),
        ("pictures", {"shape": (4, 2, 2)}, r"to have 1 channels.*; shape is \[4, 2, 2\]: set shape to"),
        ("tokens", {}, r"'indices' to have .*Long.*: set dtype = \"int64\""),
        ("line", {"dtype": "int64"}, r"Long and Float; .*set dtype = \"float32\""),
        ("steps", {}, r"Expected 4, got 16; rows come flat.*: set shape to"),
        ("Unpacks", {}, r"not enough values to unpack.*: set shape to"),
        ("Picks", {}, r"IndexError: too many indices.*: set shape to"),
        ("line", {"arguments": {"dense": 7}}, r"a row is \[16\] of float32, as the dials shape and dtype say"),
    ],
)
def test_rows_that_a_module_cannot_take_are_told_with_the_dial_to_set(
    nets: None, name: str, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"the module cannot take rows .*{words}"):
        el.build({"family": f"users_nets:{name}", **SHAPE, **change})


def test_layers_with_sparse_gradients_are_refused_before_a_step_fails(nets: None) -> None:
    with pytest.raises(ConfigError, match="the layer '0' has sparse=True.*sparse=False"):
        el.build({"family": "users_nets:sparse", "dtype": "int64", **SHAPE})


def test_a_class_in_the_place_of_a_module_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got the class Linear, expected a torch.nn.Module in hand"):
        el.Neural(nn.Linear, **SHAPE)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"got something of type int, expected a torch.nn.Module"):
        el.Neural(3, **SHAPE)  # type: ignore[arg-type]
