"""`everlearn show` and `everlearn export` on a home that learned a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn import config
from everlearn.export import onnx_inputs
from everlearn.families import frozen
from everlearn.loop import export as taking
from everlearn.schema import Encoder
from tests.support.commands import call
from tests.support.learned_models import records, score


@pytest.fixture
def home(folder: Path, data: Any) -> Path:
    """A home of a forest that has learned a file."""
    known = records(1500)
    names = ("amount", "age", "night", "country")
    rows = [[*(str(one.get(name, "")) for name in names), "yes" if score(one) > 2.0 else "no"] for one in known]
    (folder / "rows.csv").write_text("\n".join(",".join(row) for row in [[*names, "y"], *rows]) + "\n")
    data("init", "rows.csv", "--label", "y")
    path = folder / "everlearn.toml"
    path.write_text(path.read_text().replace('family = "auto"', 'family = "forest"\ntrees = 3'))
    data("run")
    return folder


def test_trees_are_listed_shown_and_drawn(home: Path, data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    listed = data("show")
    assert [one["tree"] for one in listed["trees"]] == ["0", "1", "2"]
    assert all(one["leaves"] > 1 for one in listed["trees"])
    call("show")
    assert "leaves, depth" in capsys.readouterr().out
    shown = data("show", "1", "--depth", "9")
    assert shown["version"] == listed["version"]
    assert "amount <= 30" in shown["text"]
    capsys.readouterr()
    call("show", "1", "--depth", "9")
    assert capsys.readouterr().out.strip() == shown["text"]
    everything = "".join(data("show", name, "--depth", "12")["text"] for name in "012")
    assert "country is NL" in everything
    for ending, first in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("dot", b"digraph"), ("txt", b"|---")):
        assert data("show", "1", "--to", f"tree.{ending}")["file"] == f"tree.{ending}"
        assert (home / f"tree.{ending}").read_bytes().startswith(first)
    stored = data("versions")["versions"][-1]["id"]
    assert data("show", "0", "--version", stored)["version"] == stored


def test_wrong_names_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("show", "7", expect=1)
    assert "tree: got '7'; expected 0 to 2" in capsys.readouterr().err
    call("show", "1", "--to", "tree.gif", expect=1)
    assert "--to: got 'tree.gif'; expected a name that ends with one of" in capsys.readouterr().err
    call("export", "out", "--rows", "rows.csv", expect=1)
    assert "--rows: got a file without --onnx" in capsys.readouterr().err


def test_a_model_is_exported_and_measured(home: Path, data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    found = data("export", "model.onnx")
    assert (found["rows"], sorted(found["measures"])) == (1500, ["accuracy", "log_loss"])
    assert found["bytes"] == (home / "model.onnx").stat().st_size
    capsys.readouterr()
    call("export", "--onnx", "same", "--rows", "rows.csv")
    out = capsys.readouterr().out
    now = found["measures"]["log_loss"]
    assert f"On 1,500 rows: accuracy {found['measures']['accuracy']['model']:.4f}, exported" in out
    assert f"log_loss {now['model']:.4f}, exported {now['exported']:.4f}" in out
    assert "without learning them" in out
    assert "last label" not in out
    spec = config.load(home / "everlearn.toml")
    rows, _ = Encoder(spec.schema).records(records(50, seed=5))
    session = runtime.InferenceSession("same", providers=["CPUExecutionProvider"])
    still = frozen.still(taking.served(spec, config.home(spec, home / "everlearn.toml")).model)
    np.testing.assert_allclose(session.run(None, onnx_inputs(rows))[0], still.predict(rows), rtol=1e-5, atol=1e-6)
    about = json.loads(session.get_modelmeta().custom_metadata_map["everlearn.model"])
    assert about["version"] == found["version"]


def test_labelled_traffic_is_a_file_for_another_home(home: Path, capsys: pytest.CaptureFixture[str], data: Any) -> None:
    with el.open("everlearn.toml") as loop:
        ids = [loop.predict(record).id for record in records(4)]
        loop.learn({"amount": 7.0}, "no")
        loop.feedback(ids[2], label="yes")
        loop.feedback(ids[0], label="yes")
        loop.feedback(ids[0], label="no")  # corrects the label before
        loop.feedback(ids[1], label="no", weight=0.0)  # teaches nothing
    assert data("export", "traffic.jsonl") == {"file": "traffic.jsonl", "rows": 3}
    lines = [json.loads(line) for line in (home / "traffic.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in one.items() if name != "note"} for one in records(4)]
    assert lines == [{"amount": 7.0, "y": "no"}, {**kept[2], "y": "yes"}, {**kept[0], "y": "no"}]
    call("export", "traffic.jsonl", expect=1)
    assert "traffic.jsonl exists" in capsys.readouterr().err
    path = home / "everlearn.toml"
    path.write_text(path.read_text().replace('age = "numeric"', 'age = "categorical"'))
    call("run", "traffic.jsonl", expect=1)
    assert "everlearn export rows.jsonl" in capsys.readouterr().err
    path.write_text(f'home = "other"\n{path.read_text()}')
    assert data("run", "traffic.jsonl")["rows"] == 3
