"""The settings of the neural family: what is refused, completed, and read from stored specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import everlearn as el
from everlearn._torch import nn
from everlearn.errors import ConfigError
from everlearn.families.neural.settings import NEW_CLASSES, read, written

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
        ({"ema": 2}, r"ema: got 2; expected `float` < 1.0. Known settings: family, "),
        ({"ema": "long"}, r"ema: got 'long'; expected `float`"),
        ({"emma": 0.9}, r"emma: unknown setting, got 0.9; did you mean 'ema'\? Known settings: family, "),
        ({"dtype": "int8"}, r"dtype: got 'int8'; expected one of 'float32', 'int64'"),
        (
            {"terms": [{"kind": "replya"}]},
            r"terms\[0\].kind: got 'replya'; expected one of 'agem', .*'si'; did you mean 'replay'\?$",
        ),
        ({"terms": [{"strength": 1}]}, r"terms\[0\]: 'kind' is missing. Expected kind to be one of 'agem', .*'si'$"),
        (
            {"terms": [{"kind": "replay"}, {"kind": "ewc", "lambda": 3}]},
            r"terms\[1\].lambda: unknown setting, got 3. Known settings of ewc: strength, decay, fisher$",
        ),
        (
            {"terms": [{"kind": "ewc", "fisher": "full"}]},
            r"terms\[0\].fisher: got 'full'; expected one of 'block', 'diagonal', 'kronecker'$",
        ),
        ({"terms": [3]}, r"terms\[0\]: got 3; expected `object`"),
        (
            {"memory": {"kind": "fifo"}},
            r"memory.kind: got 'fifo'; expected one of 'balanced', .*'window'$",
        ),
        ({"memory": {"dtype": "int8"}}, r"memory.dtype: got 'int8'; expected one of 'float16', 'float32', 'int16'"),
        (
            {"memory": {"row": 9}},
            r"memory.row: unknown setting, got 9; did you mean 'rows'\? Known settings of memory: kind, rows, bytes, ",
        ),
        ({"schedule": {"kind": "step"}}, r"schedule.kind: got 'step'; expected one of 'constant', 'cosine', 'linear'"),
        (
            {"drift": {"detector": "eddm"}},
            r"drift.detector: got 'eddm'; expected one of .*'page_hinkley'; did you mean 'ddm'",
        ),
        (
            {"lora": {"rank": 0}},
            r"lora.rank: got 0; expected `int` >= 1. Known settings of lora: rank, alpha, targets, also, dora, rslora$",
        ),
        ({"heads": [[0, -1]]}, r"heads\[0\]\[1\]: got -1; expected `int` >= 0"),
        ({"arguments": {1: 2}}, r"arguments: got \{1: 2\}; expected `str`"),
        ({"task": "ranking"}, r"task: got 'ranking'; expected one of 'binary', 'multiclass', 'regression'"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path_with_its_value_and_the_right_ones(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^neural model: {words}"):
        read(SHAPE | change)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="the spec: 'task' is missing. Known settings: "):
        read({"dense": 4})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 0}, "classes: got 0 with task 'multiclass'; expected at least 2"),
        ({"task": "binary"}, "classes: got 3 with task 'binary'; expected 2"),
        ({"task": "regression"}, "classes: got 3 with task 'regression'; expected 0"),
        (
            {"task": "regression", "classes": 0, "heads": [[0]]},
            "heads: got .* with task 'regression'; .*Leave heads out",
        ),
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


# Stored specs of release 0.1, which name settings that are retired now


def stored(**changes: Any) -> dict[str, Any]:
    """The settings of classes as release 0.1 writes them, with others."""
    return {**SHAPE, "restart": True, "balance": True, "prior": 500, "known": False, **changes}


@pytest.mark.parametrize("choice", NEW_CLASSES)
def test_new_classes_stands_for_four_settings_of_stored_specs(choice: str) -> None:
    restart, balance, prior, known = NEW_CLASSES[choice]
    found = read(stored(restart=restart, balance=balance, prior=prior, known=known))
    assert found == read({**SHAPE, "new_classes": choice})
    assert (found.restart, found.balance, found.prior, found.known) == NEW_CLASSES[choice]
    assert written(found)["new_classes"] == choice
    assert not {"restart", "balance", "prior", "known", "layout"} & written(found).keys()


def test_other_combinations_are_refused_in_a_new_spec_and_kept_in_a_stored_one() -> None:
    with pytest.raises(ConfigError, match=r"got .*prior 15, .*set new_classes to one of recent, overall, final, "):
        read(stored(prior=15))
    found = read(stored(prior=15, layout=1))
    assert found.prior == 15
    assert written(found)["layout"] == 1
    assert read(written(found)) == found
    with pytest.raises(ConfigError, match=r"new_classes: got 'lately'; expected one of 'final', 'fixed', 'known', "):
        read({**SHAPE, "new_classes": "lately"})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"compile": True}, "compile: got True"),
        ({"consolidate": {"told": True}}, "consolidate.told: got True"),
        ({"schedule": {"floor": 0.2}}, "schedule.floor: got 0.2"),
        ({"drift": {"grace_period": 30}}, "drift.grace_period: got 30"),
        (
            {"lora": {"dropout": 0.5}},
            "lora.dropout: got 0.5; this setting was removed. Leave it out",
        ),
        ({"terms": [{"kind": "replay"}, {"kind": "si", "damping": 1.0}]}, r"terms\[1\].damping: got 1.0"),
    ],
)
def test_a_retired_setting_is_refused_in_a_new_spec_and_kept_in_a_stored_one(
    change: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError, match=f"neural model: {where}"):
        read(SHAPE | change)
    found = read(SHAPE | change | {"layout": 1})
    assert read(written(found)) == found
    assert written(found)["layout"] == 1


def test_retired_settings_may_stand_at_their_fixed_values_and_are_not_written() -> None:
    found = read(SHAPE | {"compile": False, "schedule": {"floor": 0.1}, "terms": [{"kind": "si", "damping": 0.1}]})
    assert found == read(SHAPE | {"terms": [{"kind": "si"}]})
    spec = written(found)
    assert "compile" not in spec
    assert "floor" not in spec["schedule"]
    assert "damping" not in spec["terms"][0]
    assert "layout" not in spec
