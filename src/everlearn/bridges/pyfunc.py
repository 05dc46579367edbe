"""A version of a loop as a model of MLflow: a folder of arrays and settings, which `mlflow.pyfunc` loads.

The folder holds the snapshot of the version, named by its hash, and a text with the schema and the spec. It holds no
code, so loading one needs Everlearn, and whatever package the family of the model is from.
"""

from __future__ import annotations

import json
import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everlearn import __version__
from everlearn import model as contract
from everlearn.errors import BlobError, InputError
from everlearn.model import Model, restore
from everlearn.records import Arrays, Batch, Version
from everlearn.schema import Encoder, columnar, shape
from everlearn.spec import Schema, Spec
from everlearn.version.blobs import Blobs

TEXT = "version.json"
DATA = "data"
RANGES = ("low", "high")


def write(folder: Path, spec: Spec, version: Version, blobs: Blobs, ranges: Arrays) -> None:
    """Write a version of a loop with the stored settings `spec` to a new folder.

    `ranges` are those to which the loop clips dense columns, "low" and "high", float32 (columns,), or none. Raises
    `BlobError` where the arrays of the version are lost or damaged.
    """
    (folder / DATA).mkdir(parents=True)
    Blobs(folder / DATA).take(blobs, version.blob)
    whole = msgspec.structs.replace(version, spec=_whole(spec, version.spec))
    held = {"schema": msgspec.to_builtins(spec.schema), "version": msgspec.to_builtins(whole)}
    held["ranges"] = {name: array.tolist() for name, array in ranges.items()}
    (folder / DATA / TEXT).write_text(json.dumps(held, indent=1), encoding="utf-8")
    lines = [
        "flavors:",
        "  python_function:",
        f"    loader_module: {__name__}",
        f"    data: {DATA}",
        f"    python_version: {platform.python_version()}",
        f"model_uuid: {uuid.uuid4().hex}",
        f"utc_time_created: '{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}'",
        f"metadata: {{everlearn: '{__version__}'}}",
    ]
    (folder / "MLmodel").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _whole(spec: Spec, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a version with what it takes from its loop: shape, seed and layout."""
    own = spec.model.get("layout") if contract.newest_layout(spec.model) else contract.UNNUMBERED
    layout = {"layout": own} if own and contract.newest_layout(model) else {}
    return {**shape(spec.schema), "seed": spec.seed, "family": contract.INNER, **layout, **model}


def read(folder: Path) -> tuple[Schema, Version, Arrays, Arrays]:
    """Return the schema, the version with its complete spec, the arrays, and the ranges of a folder.

    Raises `BlobError` for a folder that is not of `write`.
    """
    try:
        held = json.loads((folder / TEXT).read_text(encoding="utf-8"))
        schema, version = msgspec.convert(held["schema"], Schema), msgspec.convert(held["version"], Version)
    except (OSError, ValueError, KeyError, msgspec.ValidationError) as error:
        raise BlobError(f"{folder} holds no version of Everlearn: {error}; expected {TEXT} and its arrays") from error
    arrays, _ = Blobs(folder).get(version.blob)
    ranges = {name: np.array(held.get("ranges", {})[name], np.float32) for name in held.get("ranges", {})}
    return schema, version, arrays, ranges


class PyfuncModel:
    """What `mlflow.pyfunc.load_model` wraps. Input: a data frame, a dict of columns, or records."""

    def __init__(self, schema: Schema, model: Model, ranges: Arrays) -> None:
        self._encoder, self._model, self._ranges = Encoder(schema), model, ranges

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return a frame with the column `value`, and `proba_CLASS` for each class, as `Loop.predict_many` does.

        The value is the likeliest class, or the number. Raises `InputError` for a value that cannot be used.
        """
        import pandas

        frame = pandas.DataFrame(list(model_input)) if _is_records(model_input) else model_input
        columns = columnar.named(frame)
        count = len(next(iter(columns.values()))) if columns else 0
        batch, problems = self._encoder.columns(columns, count)
        if problems:
            raise InputError(f"row {problems[0].row}: field {problems[0].field!r}: {problems[0].reason}")
        if self._ranges:
            low, high = (self._ranges[name] for name in RANGES)
            dense = np.minimum(np.maximum(batch.dense, low), high)
            batch = Batch(dense, batch.indptr, batch.indices, batch.values)
        scores = self._model.predict(batch)
        found: dict[str, Any] = {"value": self._encoder.decode(scores)}
        found |= {f"proba_{name}": scores[:, k] for k, name in enumerate(self._encoder.schema.classes)}
        return pandas.DataFrame(found, index=frame.index if isinstance(frame, pandas.DataFrame) else None)


def _is_records(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def _load_pyfunc(path: str) -> PyfuncModel:
    """Load a version; MLflow calls this."""
    schema, version, arrays, ranges = read(Path(path))
    model = contract.build(version.spec)
    restore(model, arrays)
    return PyfuncModel(schema, model, ranges)
