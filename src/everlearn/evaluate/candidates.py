"""Measure the candidates of some advice on the user's own rows: prequential runs, compared pair by pair.

    candidates(advice) -> name -> spec      the rule's model, and others that could take its place
    measure(advice, stream, delay)          -> Measurement: figures, and which decides, the rule or the measurement

The clock decides only how many rows are taken, from a short list of numbers.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from everlearn import advise, metrics, model
from everlearn.advise import Advice, Reason
from everlearn.errors import InputError
from everlearn.evaluate.entrants import ModelEntrant, Piece
from everlearn.evaluate.scoring import NaiveScores, Scored, task_of
from everlearn.metrics import alerts
from everlearn.model import cut
from everlearn.records import Batch, Examples, Floats
from everlearn.schema import shape
from everlearn.stream import Stream

MOST = 20_000
SIZES = (500, 1000, 2000, 5000, 10_000, MOST)  # the numbers of rows that may be taken
SECONDS = 5.0  # the time for all candidates, about
RULE = "as advised"
_NAMED = {"auto": "automatic model"}  # in the title of advice
_TRIAL = 200  # rows on which the time of a row is measured
_BLOCKS = 20
_T = 3.13  # quantile of Student's t with 19 degrees of freedom: 95 % for nine comparisons together (Bonferroni)
_CAP = 0.001  # smaller probabilities count as this one in the log loss, as in the gate
_OPTIMIZERS = ("blend", "quick", "adagrad", "adam", "ftrl", "normalized", "sgd")


class Candidate(Struct, frozen=True, kw_only=True):
    """One model that was measured; `low` and `high` bound how much more it loses than the rule's model, by row."""

    name: str
    model: dict[str, Any]
    metrics: dict[str, float]
    low: float
    high: float


class Measurement(Struct, frozen=True, kw_only=True):
    """The figures of all candidates on the first `rows` rows, with labels `delay` rows late.

    `best` names the model to use and `why` says which decided. `baselines` are the naive ones.
    """

    rows: int
    delay: int
    candidates: tuple[Candidate, ...]
    baselines: dict[str, dict[str, float]]
    best: str
    why: str


def candidates(advice: Advice) -> dict[str, dict[str, Any]]:
    """Return the models to measure: that of the rule first, then others that fit the same answers.

    >>> list(candidates(advise.of({"model": "linear"})))
    ['as advised', 'linear, quick', 'linear, adagrad', 'linear, adam', 'linear, ftrl', 'linear, normalized', \
'linear, sgd', 'linear, each update validated']
    """
    rule, gated = advice.model, advice.model["family"] == "gated"
    inner = rule["model"] if gated else rule
    found = {RULE: rule}
    if inner["family"] != "linear":
        return found | ({"linear": {"family": "linear"}} if advice.situation.model == "any" else {})
    kept = {name: value for name, value in inner.items() if name not in ("optimizer", "rate")}
    for name in _OPTIMIZERS:
        if name == inner.get("optimizer", "blend"):
            continue
        other = {**kept, "optimizer": name}
        found[f"linear, {name}"] = {**rule, "model": other} if gated else other
    if not gated:
        found["linear, each update validated"] = {"family": "gated", "model": inner}
    if advice.situation.model == "any" and not gated:
        found["auto"] = {"family": "auto"}
    if advice.situation.model == "any" and importlib.util.find_spec("torch") is not None:
        answers = msgspec.to_builtins(advice.situation) | {"model": "small"}
        found["a small network"] = advise.of(answers).model
    return found


def measure(advice: Advice, stream: Stream, delay: int = 0, *, rows: int = 0, seconds: float = SECONDS) -> Measurement:
    """Measure the candidates of some advice on the first rows of a stream, at most 20,000.

    `rows` is their number; 0 takes what fits into about `seconds`, one of `SIZES`. Raises InputError for a stream
    without a usable row, ConfigError or ModelError for a model that cannot be built for these rows.
    """
    if rows < 0:
        raise InputError(f"rows: got {rows}; expected 1 to {MOST:,}, or 0 for as many as fit into the time")
    most = min(rows, MOST)
    examples = _first(stream, most or MOST)
    bounds, specs = shape(stream.schema), candidates(advice)
    size = most or _affordable(specs, bounds, examples, delay, seconds)
    taken = cut(examples, 0, min(size, len(examples.y)))
    runs = {name: _run(spec, bounds, taken, delay) for name, spec in specs.items()}
    found = tuple(
        Candidate(
            name=name,
            model=specs[name],
            metrics=runs[name].metrics,
            **dict(zip(("low", "high"), interval(runs[name].losses - runs[RULE].losses), strict=True)),
        )
        for name in specs
    )
    best, why = _decided(found, {name: float(one.losses.mean()) for name, one in runs.items()}, len(taken.y))
    naive = runs[RULE].baselines
    return Measurement(rows=len(taken.y), delay=delay, candidates=found, baselines=naive, best=best, why=why)


def settled(advice: Advice, measured: Measurement) -> Advice:
    """Return the advice with the model that the measurement chose, and the reason; unchanged if the rule won.

    Reasons for settings that all were replaced are left out.
    """
    if measured.best == RULE:
        return advice
    spec = next(one.model for one in measured.candidates if one.name == measured.best)
    changed = {f"model.{name}": value for name, value in spec.items() if advice.model.get(name) != value}
    late = f", labels {measured.delay:,} rows late" if measured.delay else ""
    because = {"measured": f"{measured.rows:,} rows{late}"}
    reason = Reason(settings=changed, because=because, why=measured.why, source="your rows")
    named = _NAMED.get(measured.best, measured.best)
    if spec["family"] == "gated":  # the name says how it serves
        title = f"{named} (measured better than {advice.title})"
    else:
        before, serves = advise.describe_model(advice.model), advise.describe_serving(spec, advice.settings)
        title = f"{named} (measured better than {before}), {serves}"
    held = (one for one in advice.reasons if not one.settings or one.settings.keys() - changed.keys())
    return msgspec.structs.replace(advice, title=title, model=dict(spec), reasons=(*held, reason))


def interval(difference: Floats) -> tuple[float, float]:
    """Return bounds on the mean of n paired differences, float64 (n,): Student's t on the means of 20 blocks.

    Blocks, since neighbouring rows are alike. The bounds hold for nine comparisons together with 95 %; they are
    infinite for fewer than 200 rows.

    >>> interval(np.zeros(100))
    (-inf, inf)
    """
    if len(difference) < 10 * _BLOCKS:
        return -np.inf, np.inf
    means = np.array([block.mean() for block in np.array_split(difference, _BLOCKS)])
    half = _T * float(means.std(ddof=1)) / _BLOCKS**0.5
    return float(means.mean()) - half, float(means.mean()) + half


def _decided(found: Sequence[Candidate], losses: Mapping[str, float], rows: int) -> tuple[str, str]:
    """Return the candidate to use, and which decided."""
    clear = [one for one in found if one.high < 0.0]
    if not clear:
        return RULE, f"the advice stays: on {rows:,} rows nothing was clearly better"
    best = min(clear, key=lambda one: losses[one.name])
    return best.name, (
        f"the measurement decided: loss {losses[best.name]:.4g} against {losses[RULE]:.4g} of the advised model, a "
        f"difference of {-best.high:.2g} to {-best.low:.2g}"
    )


class _Run(NamedTuple):
    """One candidate on the rows: its metrics, its loss on each row, float64 (n,), and the naive baselines' metrics."""

    metrics: dict[str, float]
    losses: Floats
    baselines: dict[str, dict[str, float]]


def _run(spec: Mapping[str, Any], bounds: Mapping[str, Any], rows: Examples, delay: int) -> _Run:
    """Run one candidate prequentially over the rows."""
    built = model.build(spec, bounds)
    task, classes = task_of({**bounds, **built.spec})
    own = model.own_loss(built)
    naive, scored = NaiveScores(task, classes, delay, own, None), Scored(task, classes, own, alerts.SHARE, "")
    scores = ModelEntrant(built, delay).step(Piece(rows, []))
    scored.add(rows, scores, 0, naive.score(rows, 0))
    if task == "regression":
        losses = metrics.losses("absolute", scores, rows.y)
    else:
        losses = metrics.losses("log_loss", scores, rows.y, _CAP)
    return _Run(scored.results()["metrics"], losses, naive.results()["baselines"])


def _first(stream: Stream, most: int) -> Examples:
    """Return the first usable rows of a stream. Raises `InputError` if it has none."""
    parts, count = [], 0
    for chunk in stream.chunks():
        parts.append(chunk.examples)
        count += len(chunk.examples.y)
        if count >= most:
            break
    if not count:
        raise InputError(
            f"{stream.name} has no row that can be used; expected some to measure the candidates on. Correct the file, "
            "or take the advice without a measurement"
        )
    whole = parts[0] if len(parts) == 1 else _joined(parts)
    return cut(whole, 0, min(most, count))


def _joined(parts: Sequence[Examples]) -> Examples:
    batches = [part.batch for part in parts]
    ends = np.cumsum([0, *(batch.indptr[-1] for batch in batches)])
    indptr = [batch.indptr[:-1] + end for batch, end in zip(batches, ends[:-1], strict=True)]
    batch = Batch(
        np.concatenate([one.dense for one in batches]),
        np.concatenate([*indptr, ends[-1:]]).astype(np.int64),
        np.concatenate([one.indices for one in batches]),
        np.concatenate([one.values for one in batches]),
    )
    y, weight, position = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("y", "weight", "position")
    )
    return Examples(batch, y, weight, position)


def _affordable(
    specs: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, Any], examples: Examples, delay: int, seconds: float
) -> int:
    """Return the number of rows, of `SIZES`, that all candidates can take in about so many seconds."""
    trial = cut(examples, 0, min(_TRIAL, len(examples.y)))
    cost = 0.0
    for spec in specs.values():
        _run(spec, bounds, cut(trial, 0, min(20, len(trial.y))), min(delay, 10))  # loads the kernels
        began = time.perf_counter()
        _run(spec, bounds, trial, min(delay, 100))
        cost += (time.perf_counter() - began) / max(len(trial.y), 1)
    return max([size for size in SIZES if size * cost <= seconds], default=SIZES[0])
