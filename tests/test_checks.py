"""The contract checks: a correct model passes them all, and each planted fault is caught by the check meant for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from everlearn import checks
from everlearn.checks import Result
from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.records import Arrays, Batch, Floats, Singles

SPEC = {"task": "binary", "dense": 3, "hashed": 16, "classes": 2}
SHARED = np.zeros(20)
NOISE = np.random.default_rng()


class Small:
    """A correct logistic regression: 3 dense columns, 16 hashed, an intercept; plain numpy, one row at a time."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        self.arrays: Arrays = {"weights": np.zeros(20), "rows": np.zeros(1, np.int64)}

    def predict(self, batch: Batch) -> Singles:
        scores = [self._answer(self._row(batch, row)) for row in range(len(batch))]
        return np.array(scores, np.float32).reshape(-1, 2)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        scores = np.zeros((len(batch), 2), np.float32)
        for row in range(len(batch)):
            x = self._row(batch, row)
            scores[row] = self._answer(x)
            if y[row] in (0, 1) and np.isfinite(weight[row]):
                self._step(x, y[row], float(weight[row]), scores[row])
        return scores

    def _row(self, batch: Batch, row: int) -> Floats:
        x = np.zeros(20)
        x[:3] = np.where(np.isfinite(batch.dense[row]), batch.dense[row].clip(-1e3, 1e3), 0)
        for place in range(batch.indptr[row], batch.indptr[row + 1]):
            if np.isfinite(batch.values[place]):
                x[3 + batch.indices[place]] += np.clip(batch.values[place], -1e3, 1e3)
        x[19] = 1
        return x

    def _answer(self, x: Floats) -> tuple[float, float]:
        p = 1 / (1 + np.exp(-np.clip(self.arrays["weights"] @ x, -30, 30)))
        return 1 - p, p

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        self.arrays["rows"] += 1
        rate = 0.1 / np.sqrt(self.arrays["rows"][0])
        self.arrays["weights"] += rate * min(weight, 10.0) * (y - said[1]) * x


class CounterOutsideArrays(Small):
    """The learning rate falls with a counter that a restart forgets."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.rows = 0

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        self.rows += 1
        self.arrays["weights"] += 0.1 / self.rows * min(weight, 10.0) * (y - said[1]) * x


class KeepsItsFirstWeights(Small):
    """Holds on to the array it was built with, so that restored ones are never read."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.weights = self.arrays["weights"]

    def _answer(self, x: Floats) -> tuple[float, float]:
        p = 1 / (1 + np.exp(-np.clip(self.weights @ x, -30, 30)))
        return 1 - p, p


class PredictWrites(Small):
    """Counts what it was asked in its arrays."""

    def predict(self, batch: Batch) -> Singles:
        self.arrays["rows"] += len(batch)
        return super().predict(batch)


class PredictCounts(Small):
    """Answers with more confidence the more often it is asked."""

    asked = 0

    def predict(self, batch: Batch) -> Singles:
        self.asked += 1
        p = super().predict(batch)[:, 1] * self.asked / (self.asked + 1)
        return np.stack([1 - p, p], axis=1)


class PredictSpoilsLearning(Small):
    """Asking changes nothing but how the next row is learned."""

    asked = 0

    def predict(self, batch: Batch) -> Singles:
        self.asked += 1
        return super().predict(batch)

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        super()._step(x, y, weight / (1 + self.asked), said)


class PredictCleansItsInput(Small):
    """Replaces missing values in the caller's batch."""

    def predict(self, batch: Batch) -> Singles:
        batch.dense[~np.isfinite(batch.dense)] = 0
        return super().predict(batch)


class ReturnsItsBuffer(Small):
    """Answers into one buffer, which the next answer overwrites."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.buffer = np.zeros((1000, 2), np.float32)

    def predict(self, batch: Batch) -> Singles:
        self.buffer[: len(batch)] = super().predict(batch)
        return self.buffer[: len(batch)]


class Noisy(Small):
    """Starts from random weights without a seed."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.arrays["weights"] += NOISE.normal(0, 0.01, 20)


class NoisySteps(Small):
    """Adds noise without a seed to each step."""

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        super()._step(x, y, weight * NOISE.uniform(0.9, 1.1), said)


class SharesItsBuffer(Small):
    """All models of the class learn into one array."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        SHARED[:] = 0
        self.arrays["weights"] = SHARED


class SharesHiddenState(Small):
    """All models of the class share a bias that no array holds."""

    bias = np.zeros(1)

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.bias[:] = 0

    def _answer(self, x: Floats) -> tuple[float, float]:
        p = 1 / (1 + np.exp(-np.clip(self.arrays["weights"] @ x + self.bias[0], -30, 30)))
        return 1 - p, p

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        super()._step(x, y, weight, said)
        self.bias += 0.01 * (y - said[1])


class LetsNumbersIn(Small):
    """Trusts the numbers it is given."""

    def _row(self, batch: Batch, row: int) -> Floats:
        x = np.zeros(20)
        x[:3] = np.nan_to_num(batch.dense[row], posinf=np.inf, neginf=-np.inf)
        x[19] = 1
        return x


class TrustsWeights(Small):
    """Checks inputs and labels, but not the weight of a row."""

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        scores = super().learn(batch, y, np.where(np.isfinite(weight), weight, np.float32(0)))
        self.arrays["weights"][19] += 0 * np.sum(weight)
        return scores


class Grows(Small):
    """Remembers every row in its arrays."""

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        super()._step(x, y, weight, said)
        self.arrays["rows"] = np.append(self.arrays["rows"], 0)


class GrowsOutsideArrays(Small):
    """Remembers every row in a list of its own."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.history: list[None] = []

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        super()._step(x, y, weight, said)
        self.history.append(None)


class LearnsFirst(Small):
    """Answers after it has learned, and so looks better than it is."""

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        super().learn(batch, y, weight)
        return self.predict(batch)


class StepsOnceABatch(Small):
    """A minibatch learner: one step on the mean gradient of the rows of a call."""

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        scores, before = self.predict(batch), self.arrays["weights"].copy()
        rows = [self._row(batch, row) for row in range(len(batch))]
        usable = [row for row in range(len(batch)) if y[row] in (0, 1) and np.isfinite(weight[row])]
        for row in usable:
            self._step(rows[row], y[row], float(weight[row]), scores[row])
        if usable:
            self.arrays["weights"][:] = before + (self.arrays["weights"] - before) / len(usable)
        return scores


class NeedsTraining(Small):
    """Cannot answer before it has seen a row."""

    def predict(self, batch: Batch) -> Singles:
        if not self.arrays["rows"][0]:
            raise RuntimeError("fit first")
        return super().predict(batch)


class AnswersOneColumn(Small):
    """Returns the probability of class 1 alone."""

    def predict(self, batch: Batch) -> Singles:
        return super().predict(batch)[:, 1:]


class AnswersOdds(Small):
    """Returns odds where probabilities are expected."""

    def predict(self, batch: Batch) -> Singles:
        scores = super().predict(batch)
        return scores / scores[:, ::-1]


class AnswersDoubles(Small):
    """Returns float64."""

    def predict(self, batch: Batch) -> Singles:
        return super().predict(batch).astype(np.float64)  # type: ignore[return-value]


class StoresObjects(Small):
    """Keeps Python objects where only numbers can be stored."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.arrays["names"] = np.array([{"a": 1}], dtype=object)


class Refuses(Small):
    """Raises InputError for a label it cannot use, which is as good as leaving the row out."""

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        if not np.isin(y, (0, 1)).all():
            raise InputError("a label is neither 0 nor 1")
        return super().learn(batch, y, weight)


def build(spec: Mapping[str, Any]) -> Small:
    """What a user's `your_module:build` looks like; the spec names the class, so that it builds the same again."""
    made: Small = globals()[spec["kind"]](spec)
    return made


def spec_of(kind: type[Small], **more: Any) -> dict[str, Any]:
    return {**SPEC, "family": f"{__name__}:build", "kind": kind.__name__, **more}


@pytest.mark.parametrize("kind", [Small, Refuses])
def test_a_correct_model_passes_every_check(kind: type[Small]) -> None:
    found = checks.run(lambda: build(spec_of(kind)))
    assert [result for result in found if not result.ok] == []
    assert len(found) == len(checks.CHECKS) == 14


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (CounterOutsideArrays, "arrays are all the state", "resumed from arrays after row 0"),
        (KeepsItsFirstWeights, "arrays are all the state", "read it there each time"),
        (PredictWrites, "predict is pure", "predict changed arrays 'rows'"),
        (PredictCounts, "predict is pure", "gave another result the second time"),
        (PredictSpoilsLearning, "predict is pure", "because predict was called before"),
        (PredictCleansItsInput, "predict is pure", "predict changed its batch"),
        (ReturnsItsBuffer, "predict is pure", "overwrote the result of an earlier one"),
        (Noisy, "build is deterministic", "two builds have different arrays"),
        (NoisySteps, "build is deterministic", "two builds learned the same rows and"),
        (SharesItsBuffer, "copies are independent", "learn of another build changed arrays 'weights'"),
        (SharesHiddenState, "copies are independent", "state is shared outside arrays"),
        (LetsNumbersIn, "nothing unusable reaches arrays", "is not finite after rows with dense = inf"),
        (TrustsWeights, "nothing unusable reaches arrays", "is not finite after rows with weight = nan"),
        (Grows, "memory is bounded", "'rows' has shape"),
        (GrowsOutsideArrays, "memory is bounded", "more each time"),
        (LearnsFirst, "learn answers before it learns", "Predict each row before learning from it"),
        (StepsOnceABatch, "one row at a time", "when rows came one by one"),
        (NeedsTraining, "predicts before the first learn", "fit first"),
        (AnswersOneColumn, "answers are well formed", r"shape (1, 1); expected (1, 2)"),
        (AnswersOdds, "answers are well formed", "expected probabilities in [0, 1] that sum to 1"),
        (AnswersDoubles, "answers are well formed", "returned float64 (1, 2); expected a float32 array"),
        (StoresObjects, "arrays can be stored", "arrays['names']: got object"),
    ],
)
def test_a_planted_fault_is_caught_by_its_check(kind: type[Small], check: str, words: str) -> None:
    spec = spec_of(kind)
    raises = getattr(checks, "check_" + check.replace(" ", "_"))
    with pytest.raises((ModelError, RuntimeError), match=re.escape(words)):
        raises(lambda: build(spec), checks.sample(spec))


def test_a_minibatch_learner_that_says_so_passes() -> None:
    spec = spec_of(StepsOnceABatch, one_at_a_time=False)
    assert [result for result in checks.run(lambda: build(spec)) if not result.ok] == []


def test_a_spec_that_does_not_name_its_family_is_caught() -> None:
    spec = {**SPEC, "kind": "Small"}
    found = {result.name: result for result in checks.run(lambda: Small(spec))}
    assert "whose 'family' names the function" in found["spec builds the same model"].message
    assert sum(not result.ok for result in found.values()) == 1


def test_a_model_that_breaks_one_rule_fails_one_check_and_the_others_go_on() -> None:
    spec = spec_of(PredictCleansItsInput)
    found = {result.name: result for result in checks.run(lambda: build(spec))}
    assert [name for name, result in found.items() if not result.ok] == ["predict is pure"]
    assert len(found) == len(checks.CHECKS)


def test_an_error_of_the_model_is_told_with_its_name() -> None:
    spec = spec_of(NeedsTraining)
    found = {result.name: result for result in checks.run(lambda: build(spec))}
    assert found["predicts before the first learn"].message == "RuntimeError: fit first"


def test_a_build_that_fails_is_one_result() -> None:
    def broken() -> Small:
        raise ZeroDivisionError("no")

    assert checks.run(broken) == [Result("build", False, "ZeroDivisionError: no")]


@pytest.mark.parametrize("classes", [2, 7])
def test_sample_rows_have_what_real_ones_have(classes: int) -> None:
    spec = {"task": "multiclass", "dense": 5, "hashed": 50, "classes": classes}
    one, two = checks.sample(spec), checks.sample(spec)
    assert one.batch.dense.tobytes() == two.batch.dense.tobytes()
    assert sorted(set(one.y)) == list(range(classes))
    assert 0.05 < np.isnan(one.batch.dense).mean() < 0.2
    assert 0 <= one.batch.indices.min() <= one.batch.indices.max() < 50
    assert (np.diff(one.batch.indptr) == 0).any()
    assert len(set(one.weight)) == 4
    assert one.position[0] == 1


def test_sample_rows_need_a_task() -> None:
    with pytest.raises(ConfigError, match="expected one of binary, multiclass, regression"):
        checks.sample({"dense": 3})


def test_a_model_without_features_gets_rows_without_features() -> None:
    rows = checks.sample({"task": "regression", "dense": 0})
    assert rows.batch.dense.shape == (160, 0)
    assert np.isfinite(rows.y).all()


# ---- the trace -----------------------------------------------------------------------------------------------------


class Traced(Small):
    """A correct model with a trace of two: it corrects the error of the prediction that it gave."""

    trace = 2

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores = self.predict(batch)
        return scores, scores.copy()

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        scores = np.zeros((len(batch), 2), np.float32)
        for row in range(len(batch)):
            x = self._row(batch, row)
            scores[row] = self._answer(x)
            said = scores[row] if trace is None or np.isnan(trace[row]).any() else trace[row]
            if y[row] in (0, 1) and np.isfinite(weight[row]):
                self._step(x, y[row], float(weight[row]), said)
        return scores


class TraceIsWide(Traced):
    """Returns three values in place of two."""

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        return self.predict(batch), np.zeros((len(batch), 3), np.float32)


class TraceIsDouble(Traced):
    """Returns float64."""

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores, trace = super().predict_traced(batch)
        return scores, trace.astype(np.float64)  # type: ignore[return-value]


class TraceIsNotFinite(Traced):
    """Returns NaN, which means no trace."""

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores, trace = super().predict_traced(batch)
        return scores, trace * np.float32(np.nan)


class TraceScoresDiffer(Traced):
    """Scores otherwise where it makes a trace."""

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores, trace = super().predict_traced(batch)
        return scores[:, ::-1].copy(), trace


class TraceWrites(Traced):
    """Counts the traces that it made in its arrays."""

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        self.arrays["rows"] += len(batch)
        return super().predict_traced(batch)


class TraceCounts(Traced):
    """Numbers its traces, outside arrays."""

    made = 0

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        self.made += 1
        scores, trace = super().predict_traced(batch)
        return scores, trace + np.float32(self.made)


class TraceIsABuffer(Traced):
    """Returns one buffer, which the next trace overwrites."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.buffer = np.zeros((1000, 2), np.float32)

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores = self.predict(batch)
        self.buffer[: len(batch)] = scores
        return scores, self.buffer[: len(batch)]


class TraceOfTheBatch(Traced):
    """Puts the mean of the batch into the trace of each row."""

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores, trace = super().predict_traced(batch)
        return scores, trace + (scores[:, :1].mean() if len(batch) else np.float32(0))


class TraceNeedsLearning(Traced):
    """Reads an array that snapshots for serving leave out."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.arrays["learn/steps"] = np.zeros(1, np.int64)

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores, trace = super().predict_traced(batch)
        return scores, trace + np.float32(self.arrays["learn/steps"][0])

    def _step(self, x: Floats, y: float, weight: float, said: Singles) -> None:
        super()._step(x, y, weight, said)
        self.arrays["learn/steps"] = self.arrays["learn/steps"] + 1


class TraceOfNaNIsLearned(Traced):
    """Takes NaN for what it said."""

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        scores = super().learn(batch, y, weight, trace)
        self.arrays["weights"] = self.arrays["weights"] + (0.0 if trace is None else float(trace.sum()))
        return scores


class TraceOfNaNIsZero(Traced):
    """Takes NaN for zero, and None for what it says now."""

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        return super().learn(batch, y, weight, None if trace is None else np.nan_to_num(trace))


class TraceIsCleaned(Traced):
    """Replaces NaN in the caller's trace."""

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        scores = super().learn(batch, y, weight, trace)
        if trace is not None:
            trace[np.isnan(trace)] = 0
        return scores


class TraceOfTheFirst(Traced):
    """Takes the trace of the first row of a call for all of them."""

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        return super().learn(batch, y, weight, None if trace is None else np.repeat(trace[:1], len(y), axis=0))


def test_a_correct_model_with_a_trace_passes_every_check() -> None:
    assert [result for result in checks.run(lambda: build(spec_of(Traced))) if not result.ok] == []


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (TraceIsWide, "trace is well formed", "a trace of float32 (160, 3); expected float32 (160, 2)"),
        (TraceIsDouble, "trace is well formed", "a trace of float64 (160, 2); expected float32 (160, 2)"),
        (TraceIsNotFinite, "trace is well formed", "a trace that is not finite"),
        (TraceScoresDiffer, "trace is well formed", "scored differently from predict"),
        (TraceWrites, "trace is well formed", "predict_traced changed arrays 'rows'"),
        (TraceCounts, "trace is well formed", "gave another trace"),
        (TraceIsABuffer, "trace is well formed", "overwrote an earlier trace"),
        (TraceOfTheBatch, "trace is well formed", "of one row gave another trace than of all rows"),
        (TraceNeedsLearning, "trace is well formed", "predict_traced without arrays"),
        (TraceOfNaNIsLearned, "learn takes traces", "differ"),
        (TraceOfNaNIsZero, "learn takes traces", "learn with trace=None and with rows of NaN"),
        (TraceIsCleaned, "learn takes traces", "learn changed the trace"),
        (TraceOfTheFirst, "learn takes traces", "when rows came one by one"),
    ],
)
def test_each_fault_of_a_trace_is_found(kind: type[Traced], check: str, words: str) -> None:
    message = {result.name: result.message for result in checks.run(lambda: build(spec_of(kind)))}[check]
    assert words in message
