"""ONNX files answer in onnxruntime as the models do whose leaves are frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn import model as models
from everlearn.errors import InputError, MissingExtra
from everlearn.export import onnx, onnx_inputs
from everlearn.families import frozen
from everlearn.model import Model
from everlearn.records import Batch
from everlearn.schema import Encoder
from everlearn.spec import Schema
from tests.support.learned_models import fresh, taught

runtime = pytest.importorskip("onnxruntime")
TASKS = ("binary", "multiclass", "regression")


def run(path: Path, batch: Batch, hashed: bool = False) -> np.ndarray:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = onnx_inputs(batch)
    if hashed and "indices" not in given:
        given |= {"indices": np.zeros((len(batch), 1), np.int64), "values": np.zeros((len(batch), 1), np.float32)}
    return session.run(None, given)[0]


def odd(batch: Batch) -> Batch:
    """Return rows of which many values are missing or infinite."""
    random = np.random.default_rng(0)
    dense = batch.dense.copy()
    dense[random.random(dense.shape) < 0.2] = np.nan
    dense[random.random(dense.shape) < 0.05] = np.inf
    dense[random.random(dense.shape) < 0.05] = -np.inf
    values = batch.values.copy()
    values[:10] = [np.nan, np.inf, -np.inf, 0.0, 2.0, 0.0, np.nan, -3.0, 0.5, 1e30][: len(values)]
    return Batch(dense, batch.indptr, batch.indices, values)


def assert_equal(model: Model, encoder: Encoder, path: Path, hashed: bool) -> None:
    onnx(model, encoder.schema, path)
    still, (_, batch) = frozen.still(model), fresh(encoder, 400)
    for rows in (batch, odd(batch)):
        np.testing.assert_allclose(run(path, rows, hashed), still.predict(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", ["linear", "tree", "forest", "mondrian", "auto"])
def test_a_file_answers_as_the_model_does(family: str, task: str, hashed: bool, tmp_path: Path) -> None:
    model, encoder = taught(family, task, hashed)
    assert_equal(model, encoder, tmp_path / "model.onnx", hashed)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("optimizer", ["quick", "sgd", "adagrad", "adam", "ftrl", "normalized", "blend"])
def test_every_optimiser_of_linear_models_is_exact(task: str, optimizer: str, tmp_path: Path) -> None:
    model, encoder = taught("linear", task, True, 600, optimizer=optimizer, interactions="dense")
    path = onnx(model, encoder.schema, tmp_path / "model.onnx")
    _, batch = fresh(encoder)
    np.testing.assert_allclose(run(path, batch, True), model.predict(batch), rtol=3e-7, atol=1e-7)


def test_families_without_frozen_leaves_are_exact(tmp_path: Path) -> None:
    """A Mondrian forest answers with one constant in each leaf, so freezing changes nothing."""
    model, encoder = taught("mondrian", "multiclass", True)
    path = onnx(model, encoder.schema, tmp_path / "model.onnx")
    _, batch = fresh(encoder)
    np.testing.assert_allclose(run(path, batch, True), model.predict(batch), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", ["linear", "forest", "auto"])
def test_an_untrained_model_is_written(family: str, task: str, tmp_path: Path) -> None:
    encoder = taught("linear", task)[1]
    model = models.build({"family": family}, encoder.shape)
    assert_equal(model, encoder, tmp_path / "model.onnx", False)


def test_rows_are_clipped_as_the_loop_clips_them(tmp_path: Path) -> None:
    model, encoder = taught("linear", "regression")
    low, high = np.float32([0.0, 20.0, 0.0]), np.float32([60.0, 70.0, 1.0])
    path = onnx(model, encoder.schema, tmp_path / "model.onnx", ranges={"low": low, "high": high})
    dense = np.array([[1e9, -5.0, 0.5], [np.nan, 90.0, np.inf], [30.0, np.nan, -np.inf]], np.float32)
    rows = Batch(dense, np.zeros(4, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    clipped = Batch(np.minimum(np.maximum(dense, low), high), rows.indptr, rows.indices, rows.values)
    np.testing.assert_allclose(run(path, rows), model.predict(clipped), rtol=1e-6)


def test_metadata_say_how_rows_are_encoded(tmp_path: Path) -> None:
    model, encoder = taught("tree", "binary", True)
    path = onnx(model, encoder.schema, tmp_path / "model.onnx", version="abc")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    known = session.get_modelmeta().custom_metadata_map
    schema, about = json.loads(known["everlearn.schema"]), json.loads(known["everlearn.model"])
    assert schema["classes"] == ["no", "yes"]
    assert schema["hashed"] == {"country": "categorical", "note": "text"}
    assert about["version"] == "abc"
    record = fresh(encoder, 1)[0][0]
    dense = [float(record[one["field"]]) - one["subtract"] for one in schema["columns"]]  # by hand, from the metadata
    np.testing.assert_array_equal(encoder.record(record).dense[0], np.float32(dense))


def test_a_family_without_a_form_is_refused(tmp_path: Path) -> None:
    _, encoder = taught("linear", "binary")
    model = models.build({"family": "tests.support.models:Mean"}, encoder.shape)
    with pytest.raises(InputError, match="onnx: got a model of the family .*; expected one of forest, last, linear"):
        onnx(model, encoder.schema, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_products_of_hashed_entries_are_refused(tmp_path: Path) -> None:
    model, encoder = taught("linear", "binary", True, 200, layout=1, interactions="hashed")
    with pytest.raises(InputError, match="interactions 'hashed'; expected 'none' or 'dense'"):
        onnx(model, encoder.schema, tmp_path / "model.onnx")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    model, encoder = taught("linear", "binary")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'everlearn\[onnx\]'"):
        onnx(model, encoder.schema, tmp_path / "model.onnx")


def test_a_schema_of_text_alone_has_no_dense_column(tmp_path: Path) -> None:
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"note": "text"}, bits=8)
    encoder = Encoder(schema)
    known: list[dict[str, Any]] = [{"note": "free money" if i % 3 else "hello you"} for i in range(900)]
    rows, _ = encoder.records(known)
    for family in ("linear", "forest", "mondrian", "auto"):
        model = models.build({"family": family}, encoder.shape)
        model.learn(rows, (np.arange(900) % 3 > 0).astype(float), np.ones(900, np.float32))
        path = onnx(model, schema, tmp_path / f"{family}.onnx")
        np.testing.assert_allclose(run(path, rows, True), frozen.still(model).predict(rows), rtol=1e-5, atol=1e-6)
