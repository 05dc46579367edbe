"""Checks that every model passes to be versioned, resumed, shadowed, merged and rolled back; for your own models, too.

Each check takes a function that builds the model and some labelled rows, and raises `ModelError` with the value found
and the value expected. `run` runs all checks. A model learns one row at a time unless its spec has
`"one_at_a_time": False` (a network that steps once a minibatch). Learning n rows at once may then differ from learning
them one by one, so that results depend on how a stream is cut.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from everlearn import model as models
from everlearn.errors import ConfigError, EverlearnError, InputError, ModelError
from everlearn.model import Model, compare, copied, cut
from everlearn.records import Arrays, Batch, Examples, Singles, Task

Build = Callable[[], Model]

_BORDERS = (0, 1, 8, 9, 40, 104)  # where checks cut the rows: calls with one row and with several
_PASSES, _ROWS = 5, 64  # enough for a list that grows with each row to be reallocated in every pass


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check; `message` is empty if the model passed."""

    name: str
    ok: bool
    message: str


def run(build: Build, rows: Examples | None = None, spec: Mapping[str, Any] | None = None) -> list[Result]:
    """Run every check, also after failures, on `rows`, or on sample rows for `spec` (default: that of the model)."""
    try:
        model = build()
        rows = sample(model.spec if spec is None else spec) if rows is None else rows
    except Exception as error:
        return [Result("build", False, _message(error))]
    results = []
    for check in CHECKS:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            check(build, _copied(rows))
            results.append(Result(name, True, ""))
        except Exception as error:  # whatever a model raises is what the check found
            results.append(Result(name, False, _message(error)))
    return results


def sample(spec: Mapping[str, Any], count: int = 160) -> Examples:
    """Return rows that a model of this spec should accept, the same at each call.

    They have missing values, uneven weights, and up to 5 hashed features each. Without them in the spec, there are 4
    `dense` columns and 0 `hashed` ones. Raises `ConfigError` for a spec without a task.
    """
    if spec.get("task") not in get_args(Task):
        raise ConfigError(f"spec: task: got {spec.get('task')!r}; expected one of {', '.join(get_args(Task))}")
    random = np.random.default_rng(11)
    dense = random.normal(1.0, 3.0, (count, int(spec.get("dense", 4)))).astype(np.float32)
    hashed = int(spec.get("hashed", 0))
    widths = random.integers(0, 6, count) if hashed else np.zeros(count, np.int64)
    indptr = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    indices = random.integers(0, max(hashed, 1), indptr[-1]).astype(np.int32)
    values = random.choice(np.array([1.0, 0.5, -2.0], np.float32), len(indices))
    signal = dense.sum(axis=1) + np.add.reduceat(np.append(values, 0), indptr[:-1]) * (widths > 0)
    signal = (signal - signal.mean()) / signal.std() if signal.any() else random.normal(size=count)
    y = signal + random.normal(0, 0.3, count)
    if spec["task"] != "regression":
        classes = int(spec.get("classes") or 2)
        y = np.searchsorted(np.quantile(y, np.arange(1, classes) / classes), y).astype(np.float64)
    dense[random.random(dense.shape) < 0.1] = np.nan
    weight = random.choice(np.array([1.0, 0.5, 2.0, 0.0], np.float32), count, p=[0.7, 0.1, 0.1, 0.1])
    return Examples(Batch(dense, indptr, indices, values), y.astype(np.float64), weight, np.arange(1, count + 1))


def check_arrays_can_be_stored(build: Build, rows: Examples) -> None:
    """Check that `arrays` is a dict of names to numpy arrays of numbers."""
    model = build()
    _learn(model, rows)
    for name, array in model.arrays.items():
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        if not (isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.kind in "biuf"):
            raise ModelError(
                f"arrays[{name!r}]: got {kind}; expected a numpy array of numbers or bools, named by a string"
            )


def check_spec_builds_the_same_model(build: Build, rows: Examples) -> None:
    """Check that `everlearn.build(model.spec)` is the same untrained model, as versions and shadows are built so."""
    model = build()
    try:
        twin = models.build(model.spec)
    except EverlearnError as error:
        raise ModelError(
            f"everlearn.build(model.spec) failed: {error}. Expected a complete spec, whose 'family' names the function "
            "that builds the model ('your_module:build')"
        ) from error
    _same(model.arrays, twin.arrays, "everlearn.build(model.spec) built a model with other arrays")
    _same_result(
        _learn(model, rows), _learn(twin, rows), "everlearn.build(model.spec) built a model that learns differently"
    )


def check_build_is_deterministic(build: Build, rows: Examples) -> None:
    """Check that two builds that learn the same rows end with the same bytes."""
    one, two = build(), build()
    _same(one.arrays, two.arrays, "two builds have different arrays. Derive random numbers from a seed in the spec")
    answers = _learn(one, rows), _learn(two, rows)
    why = (
        "two builds learned the same rows and {}. Derive random numbers from a seed in the spec and a counter in arrays"
    )
    _same_result(*answers, why.format("predicted differently"))
    _same(one.arrays, two.arrays, why.format("ended with different arrays"))


def check_predicts_before_the_first_learn(build: Build, rows: Examples) -> None:
    """Check that an untrained model predicts, and that an empty batch gets an empty prediction."""
    model = build()
    _right(model, model.predict(rows.batch), len(rows.y), "predict, before the first learn,")
    empty = cut(rows, 0, 0)
    _right(model, model.predict(empty.batch), 0, "predict of no rows")
    before = _bytes(model.arrays)
    _right(model, model.learn(empty.batch, empty.y, empty.weight), 0, "learn of no rows")
    _unchanged(before, model.arrays, "learn of no rows changed")


def check_answers_are_well_formed(build: Build, rows: Examples) -> None:
    """Check predictions: float32, one row for each row, finite; probabilities are in [0, 1] and sum to 1."""
    model = build()
    for start, stop in _cuts(rows):
        part = cut(rows, start, stop)
        _right(model, model.learn(part.batch, part.y, part.weight), stop - start, "learn")
        _right(model, model.predict(part.batch), stop - start, "predict")


def check_predict_is_pure(build: Build, rows: Examples) -> None:
    """Check that predict changes nothing: arrays, its input, its earlier results, or hidden state."""
    model, untouched = build(), build()
    for start, stop in _cuts(rows):
        part = cut(rows, start, stop)
        arrays, inputs = _bytes(model.arrays), _input_bytes(rows)
        first = model.predict(rows.batch)
        kept = first.copy()
        model.predict(part.batch)
        _same_result(kept, first, "a later predict overwrote the result of an earlier one. Return a new array")
        again = model.predict(rows.batch)
        _unchanged(arrays, model.arrays, "predict changed")
        if inputs != _input_bytes(rows):
            raise ModelError("predict changed its batch; expected the same bytes as before")
        _same_result(kept, again, "predict gave another result the second time. Move hidden state to arrays")
        expected = untouched.learn(part.batch, part.y, part.weight)
        got = model.learn(part.batch, part.y, part.weight)
        _same_result(expected, got, "learn predicted differently because predict was called before")
        _same(untouched.arrays, model.arrays, "learn ended with other arrays because predict was called before")


def check_arrays_are_all_the_state(build: Build, rows: Examples) -> None:
    """Check that a fresh build with the arrays goes on with the same bits, wherever the stream is interrupted."""
    whole = build()
    moments = [(0, copied(whole.arrays))]
    answers = []
    for start, stop in _cuts(rows):
        part = cut(rows, start, stop)
        answers.append(whole.learn(part.batch, part.y, part.weight).copy())
        moments.append((stop, copied(whole.arrays)))
    predictions = whole.predict(rows.batch)
    for place, (row, arrays) in enumerate(moments):
        resumed = build()
        _learn(resumed, rows)  # replacing its arrays must replace what it learned
        resumed.arrays = copied(arrays)
        why = f"a model resumed from arrays after row {row} {{}}. Keep all state in arrays, and read it there each time"
        for (start, stop), expected in list(zip(_cuts(rows), answers, strict=True))[place:]:
            part = cut(rows, start, stop)
            got = resumed.learn(part.batch, part.y, part.weight)
            _same_result(expected, got, why.format(f"predicted rows {start + 1} to {stop} differently"))
        _same(whole.arrays, resumed.arrays, why.format("ended with different arrays"))
        _same_result(predictions, resumed.predict(rows.batch), why.format("predicted differently"))


def check_copies_are_independent(build: Build, rows: Examples) -> None:
    """Check that learning in one model does not change another build, or a copy."""
    one, other = build(), build()
    fresh = _bytes(other.arrays)
    _learn(one, rows)
    _unchanged(fresh, other.arrays, "learn of another build changed")
    twin = build()
    twin.arrays = copied(one.arrays)
    for learner, other, call in (
        (twin, one, "learn of a copy changed its original's"),
        (one, twin, "learn changed a copy's"),
    ):
        before, predictions = _bytes(other.arrays), other.predict(rows.batch).copy()
        _learn(learner, rows)
        _unchanged(before, other.arrays, call)
        _same_result(predictions, other.predict(rows.batch), f"{call} predictions; state is shared outside arrays")


def check_learn_answers_before_it_learns(build: Build, rows: Examples) -> None:
    """Check that learn returns what predict returns just before it, so that reported scores are honest."""
    model = build()
    for start, stop in _cuts(rows):
        part = cut(rows, start, stop)
        expected = model.predict(cut(rows, start, start + 1).batch).copy()
        got = model.learn(part.batch, part.y, part.weight)[:1]
        if not np.allclose(expected, got, rtol=1e-5, atol=1e-6):
            raise ModelError(
                f"learn returned {got.tolist()} for row {start + 1}; expected {expected.tolist()}, as predict returned "
                "just before. Predict each row before learning from it, running statistics included"
            )


def check_one_row_at_a_time(build: Build, rows: Examples) -> None:
    """Check that n rows at once give the bits of n times one row, unless the spec has `"one_at_a_time": False`."""
    together, single = build(), build()
    if not together.spec.get("one_at_a_time", True):
        return
    why = "{} when rows came one by one. Accumulate row by row, or set 'one_at_a_time': False in the spec"
    singles = [cut(rows, row, row + 1) for row in range(len(rows.y))]
    answers = [single.learn(row.batch, row.y, row.weight).copy() for row in singles]
    _same_result(_learn(together, rows), np.concatenate(answers), why.format("learn predicted differently"))
    _same(together.arrays, single.arrays, why.format("learn ended with different arrays"))
    answers = [single.predict(row.batch).copy() for row in singles]
    _same_result(together.predict(rows.batch), np.concatenate(answers), why.format("predict gave other results"))


def check_nothing_unusable_reaches_arrays(build: Build, rows: Examples) -> None:
    """Check that arrays stay finite after NaN, infinite and huge inputs, labels and weights, or are refused."""
    for where, value in itertools.product(("dense", "values", "y", "weight"), (np.nan, np.inf, -np.inf, 3e38)):
        model = build()
        _learn(model, rows)
        before = {name: ~np.isfinite(array) for name, array in model.arrays.items()}
        dirty = _spoilt(rows, where, value)
        with contextlib.suppress(InputError), np.errstate(all="ignore"):
            _learn(model, dirty)
        for name, array in model.arrays.items():
            if (~np.isfinite(array) & ~before[name]).any():
                raise ModelError(
                    f"arrays[{name!r}] is not finite after rows with {where} = {value}. Leave such a row out, or take "
                    "the value as missing"
                )
        _learn(model, rows)
        _right(model, model.predict(rows.batch), len(rows.y), f"predict, after rows with {where} = {value},")


def check_memory_is_bounded(build: Build, rows: Examples) -> None:
    """Check that arrays keep their names, shapes and dtypes, and that the memory outside them does not grow.

    The check counts what can be reached from the model, without module globals and memory of other libraries.
    """
    model = build()
    built = copied(model.arrays)
    held = []
    for _ in range(_PASSES + 1):
        for row in range(min(_ROWS, len(rows.y))):
            part = cut(rows, row, row + 1)
            model.learn(part.batch, part.y, part.weight)
            model.predict(part.batch)
        held.append(_held(model))
    differences = compare(built, model.arrays)
    if differences:
        raise ModelError(
            "learning changed names, shapes or dtypes of arrays, which are fixed at build: " + "; ".join(differences)
        )
    if all(after > before for before, after in itertools.pairwise(held[1:])):
        raise ModelError(
            f"the model held {held[1]:,} bytes outside its arrays, and {held[-1]:,} after {_PASSES - 1} more passes "
            f"over {_ROWS} rows, more each time. Keep state of a fixed size, in arrays"
        )


def check_trace_is_well_formed(build: Build, rows: Examples) -> None:
    """Check that `predict_traced`, of a model with a trace, scores as predict, and that its trace is right."""
    model = build()
    width = models.traced(model)
    for start, stop in _cuts(rows) if width else ():
        arrays, inputs = _bytes(model.arrays), _input_bytes(rows)
        expected, (scores, trace) = model.predict(rows.batch).copy(), _traced(model, rows)
        kept = trace.copy()
        _same_result(expected, scores, "predict_traced scored differently from predict")
        _trace_is_right(trace, (len(rows.y), width))
        _trace_is_right(_traced(model, cut(rows, 0, 0))[1], (0, width))
        part = cut(rows, start, stop)
        one = _traced(model, cut(rows, start, start + 1))[1]
        if model.spec.get("one_at_a_time", True):
            _same_result(trace[start : start + 1], one, "predict_traced of one row gave another trace than of all rows")
        _same_result(kept, trace, "a later predict_traced overwrote an earlier trace. Return a new array")
        _same_result(kept, _traced(model, rows)[1], "predict_traced gave another trace the second time")
        _unchanged(arrays, model.arrays, "predict_traced changed")
        if inputs != _input_bytes(rows):
            raise ModelError("predict_traced changed its batch; expected the same bytes as before")
        model.learn(part.batch, part.y, part.weight)
    if width:
        server, call = build(), 'predict_traced without arrays "learn/..."'
        server.arrays = models.answering(copied(model.arrays))
        try:
            got = _traced(server, rows)[1]
        except Exception as error:
            raise ModelError(f"{call} raised {_message(error)}; serving has only the others") from error
        _same_result(_traced(model, rows)[1], got, f"{call} gave another trace")


def check_learn_takes_traces(build: Build, rows: Examples) -> None:
    """Check `learn` with traces: None equals rows of NaN, rows one by one equal rows at once, arrays are all state."""
    none, absent, together, single = build(), build(), build(), build()
    if not (width := models.traced(none)):
        return
    taught = build()
    _learn(taught, rows)
    given = _traced(taught, rows)[1].copy()
    given[::3] = np.nan
    kept, batch, why = given.copy(), (rows.batch, rows.y, rows.weight), "learn with trace=None and with rows of NaN"
    _same_result(
        models.learn(none, *batch, None), models.learn(absent, *batch, np.full_like(given, np.nan)), f"{why} differ"
    )
    _same(none.arrays, absent.arrays, f"{why} ended with different arrays")
    _right(together, models.learn(together, *batch, given), len(rows.y), f"learn with a trace of {width} values")
    if given.tobytes() != kept.tobytes():
        raise ModelError("learn changed the trace; expected the same bytes as before")
    for row in range(len(rows.y)):
        if row == len(rows.y) // 2:
            arrays, single = copied(single.arrays), build()
            single.arrays = arrays
        part = cut(rows, row, row + 1)
        models.learn(single, part.batch, part.y, part.weight, given[row : row + 1])
    if together.spec.get("one_at_a_time", True):
        _same(together.arrays, single.arrays, "learn with traces ended with other arrays when rows came one by one")
    for name, array in together.arrays.items():
        if not np.isfinite(array).all() and np.isfinite(build().arrays[name]).all():
            raise ModelError(f"arrays[{name!r}] is not finite after rows of NaN in the trace; take them as no trace")


CHECKS: tuple[Callable[[Build, Examples], None], ...] = (
    check_arrays_can_be_stored,
    check_spec_builds_the_same_model,
    check_build_is_deterministic,
    check_predicts_before_the_first_learn,
    check_answers_are_well_formed,
    check_predict_is_pure,
    check_arrays_are_all_the_state,
    check_copies_are_independent,
    check_learn_answers_before_it_learns,
    check_one_row_at_a_time,
    check_nothing_unusable_reaches_arrays,
    check_memory_is_bounded,
    check_trace_is_well_formed,
    check_learn_takes_traces,
)


def _message(error: Exception) -> str:
    """Return the message of an error, with its type unless it is one of ours."""
    return str(error) if isinstance(error, EverlearnError) else f"{type(error).__name__}: {error}"


def _cuts(rows: Examples) -> list[tuple[int, int]]:
    """Return the slices into which checks cut the rows."""
    borders = [border for border in _BORDERS if border < len(rows.y)]
    return list(itertools.pairwise([*borders, len(rows.y)]))


def _learn(model: Model, rows: Examples) -> Singles:
    """Learn labelled rows."""
    return model.learn(rows.batch, rows.y, rows.weight)


def _traced(model: Model, rows: Examples) -> tuple[Singles, Singles]:
    """Return the scores and the trace of a model that has one."""
    scores, trace = models.predict_traced(model, rows.batch)
    assert trace is not None
    return scores, trace


def _trace_is_right(trace: Singles, shape: tuple[int, int]) -> None:
    """Raise `ModelError` unless a trace is finite, float32, and of this shape."""
    if not isinstance(trace, np.ndarray) or trace.dtype != np.float32 or trace.shape != shape:
        got = f"{trace.dtype} {trace.shape}" if isinstance(trace, np.ndarray) else type(trace).__name__
        raise ModelError(f"predict_traced returned a trace of {got}; expected float32 {shape}")
    if not np.isfinite(trace).all():
        raise ModelError("predict_traced returned a trace that is not finite; rows of NaN mean that no trace is known")


def _copied(rows: Examples) -> Examples:
    """Return a copy of labelled rows."""
    batch = rows.batch
    copy = Batch(batch.dense.copy(), batch.indptr.copy(), batch.indices.copy(), batch.values.copy())
    return Examples(copy, rows.y.copy(), rows.weight.copy(), rows.position.copy())


def _spoilt(rows: Examples, where: str, value: float) -> Examples:
    """Return the rows with every seventh number of one kind replaced."""
    rows = _copied(rows)
    part: NDArray[Any] = getattr(rows.batch if where in ("dense", "values") else rows, where)
    part.reshape(-1)[::7] = value
    return rows


def _bytes(arrays: Arrays) -> dict[str, bytes]:
    """Return the bytes of each array."""
    return {name: array.tobytes() for name, array in arrays.items()}


def _input_bytes(rows: Examples) -> tuple[bytes, ...]:
    """Return the bytes of labelled rows."""
    batch = rows.batch
    parts = (batch.dense, batch.indptr, batch.indices, batch.values, rows.y, rows.weight)
    return tuple(part.tobytes() for part in parts)


def _unchanged(before: Mapping[str, bytes], arrays: Arrays, what: str) -> None:
    """Raise `ModelError` if arrays have other bytes than before."""
    now = _bytes(arrays)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise ModelError(f"{what} arrays {', '.join(map(repr, changed))}; expected the same bytes as before")


def _same(expected: Arrays, got: Arrays, what: str) -> None:
    """Raise `ModelError` unless two models have equal arrays."""
    differences = compare(expected, got)
    if not differences:
        other = [name for name in expected if expected[name].tobytes() != got[name].tobytes()]
        differences = [f"{name!r} has other bytes" for name in other]
    if differences:
        raise ModelError(f"{what} ({'; '.join(differences)})")


def _same_result(expected: Singles, got: Singles, what: str) -> None:
    """Raise `ModelError` unless two results have equal bytes."""
    if expected.tobytes() == got.tobytes():
        return
    row = int(np.argmax((expected != got).any(axis=1))) if expected.shape == got.shape else 0
    raise ModelError(f"{what} (row {row + 1}: got {got[row].tolist()}, expected {expected[row].tolist()})")


def _right(model: Model, scores: Singles, count: int, call: str) -> None:
    """Raise `ModelError` unless the scores have the shape, dtype and values that `count` rows require."""
    if not isinstance(scores, np.ndarray) or scores.ndim != 2 or scores.dtype != np.float32:
        got = f"{scores.dtype} {scores.shape}" if isinstance(scores, np.ndarray) else type(scores).__name__
        raise ModelError(f"{call} returned {got}; expected a float32 array with a row for each row of the batch")
    task = model.spec.get("task", "regression" if scores.shape[1] == 1 else "multiclass")
    columns = 1 if task == "regression" else int(model.spec.get("classes") or scores.shape[1])
    if scores.shape != (count, columns):
        raise ModelError(f"{call} returned an array of shape {scores.shape}; expected {(count, columns)}")
    bad = ~np.isfinite(scores).all(axis=1)
    rule = "finite numbers"
    if task != "regression":
        rule = "probabilities in [0, 1] that sum to 1"
        bad |= (scores < 0).any(axis=1) | (scores > 1).any(axis=1) | (abs(scores.sum(axis=1) - 1) > 1e-4)
    if bad.any():
        row = int(np.argmax(bad))
        raise ModelError(f"{call} returned {scores[row].tolist()} for row {row + 1}; expected {rule}")


def _held(model: Model) -> int:
    """Count the bytes reachable from a model, without its arrays, code and compiled functions."""
    seen = {id(model.arrays)} | {id(array) for array in model.arrays.values()}
    queue: list[Any] = [model]
    total = 0
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, ModuleType | type) or type(item).__module__.startswith("numba"):
            continue
        seen.add(id(item))
        total += item.nbytes if isinstance(item, np.ndarray) else sys.getsizeof(item)
        queue += (item.__closure__ or ()) if isinstance(item, FunctionType) else gc.get_referents(item)
    return total
