"""A model is taken out of a home as it answers there, with rows of the file or of the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

import everlearn as el
from everlearn.errors import InputError
from everlearn.loop import export
from everlearn.loop.loop import Loop
from everlearn.serve import snapshot
from everlearn.spec import LimitsSpec
from tests.support import loops
from tests.support.tables import write_csv

SPEC = loops.spec(mode="live", model={"family": "forest"})
TABLE = loops.table(600)


def grown(home: Path, spec: el.spec.Spec = SPEC) -> list[float]:
    """Make a home with predictions, late labels and examples; return the last answer's probabilities."""
    with Loop(spec, home) as loop:
        for row in range(300):
            loop.learn(loops.record(TABLE, row), int(TABLE["label"][row]))
        for row in range(300, 600):
            answer = loop.predict(loops.record(TABLE, row), id=f"r{row}")
            if row % 2:
                loop.feedback(f"r{row}", label=int(TABLE["label"][row]))
        answer = loop.predict(loops.record(TABLE, 0), id="last")
    return list(answer.proba)


def test_the_model_that_answers_is_taken_whether_the_loop_is_open_or_not(tmp_path: Path) -> None:
    expected = grown(tmp_path)
    encoder = el.schema.Encoder(SPEC.schema)
    taken = export.served(SPEC, tmp_path)
    np.testing.assert_allclose(taken.model.predict(encoder.record(loops.record(TABLE, 0)))[0], expected, rtol=1e-6)
    assert taken.ranges == {}
    with Loop(SPEC, tmp_path) as loop:
        known = loop.versions()
        stored = export.stored(SPEC, tmp_path, loop.home.versions, known[-1].id[:6])
    assert stored.version == known[-1].id
    assert type(stored.model) is type(taken.model)


def test_the_newest_labelled_rows_come_from_the_log(tmp_path: Path) -> None:
    grown(tmp_path)
    stream = export.rows(SPEC, tmp_path)
    assert stream is not None
    labels = np.concatenate([part.y for part in export.newest(stream)])
    expected = [*TABLE["label"][:300], *TABLE["label"][301:600:2]]
    np.testing.assert_array_equal(labels, expected)


def test_a_file_of_the_settings_goes_before_the_log(tmp_path: Path) -> None:
    grown(tmp_path / "home")
    write_csv(tmp_path / "rows.csv", 40)
    spec = structs.replace(SPEC, source="rows.csv")
    schema = structs.replace(SPEC.schema, fields={"a": "numeric", "b": "numeric"})
    stream = export.rows(structs.replace(spec, schema=schema), tmp_path / "home", beside=tmp_path)
    assert stream is not None
    assert stream.rows == 40
    gone = export.rows(structs.replace(SPEC, source="gone.csv"), tmp_path / "home", beside=tmp_path)
    assert gone is not None
    assert gone.rows == 450


def test_an_empty_log_has_no_rows(tmp_path: Path) -> None:
    with Loop(SPEC, tmp_path):
        pass
    assert export.rows(SPEC, tmp_path) is None


def test_the_newest_rows_are_the_last_of_a_stream() -> None:
    stream = el.read({"a": np.arange(1000.0), "label": np.arange(1000) % 2}, label="label")
    parts = list(export.newest(stream, most=64))
    found = np.concatenate([part.batch.dense[:, 0] for part in parts])
    assert found[-1] == 999.0
    assert 64 <= len(found) < 64 + 64


def test_ranges_come_along(tmp_path: Path) -> None:
    spec = structs.replace(SPEC, limits=LimitsSpec(clip=0.01))
    grown(tmp_path, spec)
    taken = export.served(spec, tmp_path)
    assert sorted(taken.ranges) == ["high", "low"]
    with Loop(spec, tmp_path) as loop:
        version = loop.versions()[-1].id
        published = snapshot.Publisher(snapshot.folder(tmp_path))  # as a server's learner does
        published.publish(loop.ready(), None, loop.position, loop.fold.bounds)
        published.close()
        again = export.served(spec, tmp_path)
        assert again.version == taken.version
        np.testing.assert_array_equal(again.ranges["low"], taken.ranges["low"])
        assert np.array_equal(again.model.arrays["counts"], taken.model.arrays["counts"])
        stored = export.stored(spec, tmp_path, loop.home.versions, version)
    assert sorted(stored.ranges) == ["high", "low"]


def test_rows_are_clipped_before_both_forms_are_measured(tmp_path: Path) -> None:
    """A row far outside of the ranges is predicted as the loop predicts it: by its limits."""
    spec = structs.replace(SPEC, limits=LimitsSpec(clip=0.01), model={"family": "linear"})
    grown(tmp_path, spec)
    taken = export.served(spec, tmp_path)
    far = {"a": [1e9] * 20, "b": [0.0] * 20, "c": ["c1"] * 20, "label": [1, 0] * 10}
    found = export.measured(taken, spec, el.read(far, schema=spec.schema), None)
    near = {**far, "a": [float(taken.ranges["high"][0])] * 20}
    bare = export.measured(taken._replace(ranges={}), spec, el.read(near, schema=spec.schema))
    assert found.rows == bare.rows == 20
    assert found.measures["log_loss"] == pytest.approx(bare.measures["log_loss"])
    assert found.measures["log_loss"][0] == found.measures["log_loss"][1]


def test_a_model_that_is_no_language_model_writes_no_folder(tmp_path: Path) -> None:
    grown(tmp_path)
    taken = export.served(SPEC, tmp_path)
    with pytest.raises(InputError, match="got a Trees, which is no language model; .* Write it with --onnx"):
        export.write_folder(taken, tmp_path / "out")
