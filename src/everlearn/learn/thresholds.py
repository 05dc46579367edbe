"""Choose the threshold of a binary decision from what one contestant predicted before each label.

A contestant's scores are counted in 641 buckets of the second class's probability, 16 to each halving of it or of its
complement, for each class. The count of a row fades by 1 / memory with each row that follows. So the state has a
fixed size, follows the stream, and has the same bytes however the rows are split into calls. For quantiles the memory
is a quarter of the rows so far, within bounds, since a model that has just started changes fast. Costs of rare classes
need all rows that they can get.

    costs    the threshold of the lowest cost on these rows, if that is surely lower than at the fallback
    rate     the quantile 1 - rate of the scores, which needs no labels
    recall   the highest threshold that keeps the recall, surely, on the recent positives

Until there are enough rows the threshold is the fallback: the one that came with the version, else c_fp / (c_fp + c_fn)
or one half.
"""

from __future__ import annotations

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.records import Arrays, Floats, Ints, Singles
from everlearn.serve.deciding import Kind

NEVER = 2.0  # the threshold that no probability reaches
BUCKETS = 641
SHORT = {"costs": 20_000.0, "rate": 200.0, "recall": 500.0}  # least memory, in rows; of "recall", in positives
LONG = {"costs": 20_000.0, "rate": 20_000.0, "recall": 1_000.0}  # most memory; in between it is a quarter of the rows
FEWEST = 10.0  # rows of each class, by weight, before costs on them are compared
SCORES = 100  # scores before their quantile is used
EVERY = 20  # scores between two changes of that threshold
DOUBT = 2.0  # standard errors by which a saving must exceed 0
LEVEL = 0.05  # probability that the recall is below its target

THRESHOLD, FALLBACK, LEARNED, GROWTH, NOTED = range(5)  # in arrays["rule"]
_RENEW = 1024  # rows between two divisions by the growth
_SHIFT = 19
_LEAST = 106 << 23  # 2**-21 as the bits of a float32
_HALF = 320


def _edges() -> Floats:
    """Return the lowest probability of each bucket, and the threshold above all of them, float64 (642,)."""
    low = (_LEAST + (np.arange(_HALF + 1, dtype=np.int64) << _SHIFT)).astype(np.int32).view(np.float32)
    edges = np.concatenate([low[:-1].astype(np.float64), 1.0 - low[::-1].astype(np.float64), [NEVER]])
    edges[0] = 0.0
    return edges


EDGES = _edges()


def start(fallback: float) -> Arrays:
    """Return the state of a contestant that has predicted nothing yet: `counts` float64 (2, 641), `rule` float64 (5,).

    >>> start(0.01)["rule"].tolist()
    [0.01, 0.01, 0.0, 1.0, 0.0]
    """
    return {"counts": np.zeros((2, BUCKETS)), "rule": np.array([fallback, fallback, 0.0, 1.0, 0.0])}


def note(arrays: Arrays, kind: Kind, scores: Singles, y: Floats, weight: Singles) -> None:
    """Count n labelled rows, in order: scores float32 (n, 2), y float64 (n,), weight float32 (n,).

    "recall" counts positives alone, and "rate" nothing: see `follow`.
    """
    if kind != "rate":
        given = np.ascontiguousarray(scores[:, 1], np.float32)
        labels, weights = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
        _note(arrays["counts"], arrays["rule"], given, labels, weights, SHORT[kind], LONG[kind], kind == "recall")


def follow(arrays: Arrays, rate: float, scores: Singles) -> Ints:
    """Decide n rows, in order, by the quantile 1 - `rate` of the scores before each; return the classes, int64 (n,).

    The threshold changes after every 20 scores, from the 100th on. Scores float32 (n, 2) are counted once decided.
    """
    given = np.ascontiguousarray(scores[:, 1], np.float32)
    decided = np.empty(len(given), np.int64)
    _follow(arrays["counts"], arrays["rule"], EDGES, given, rate, SHORT["rate"], LONG["rate"], decided)
    return decided


def refresh(arrays: Arrays, kind: Kind, target: float, costs: Floats) -> None:
    """Choose the threshold again from the rows counted so far.

    `target` is the rate or the recall; `costs` float64 (2, 2) are those of "costs".
    """
    counts, rule = arrays["counts"], arrays["rule"]
    if kind == "costs":
        _cheapest(counts, rule, EDGES, costs[0, 1] - costs[0, 0], costs[1, 0] - costs[1, 1])
    elif kind == "recall":
        _keep_recall(counts, rule, EDGES, target)
    else:
        _quantile(counts, rule, EDGES, target)


def bucket(score: float) -> int:
    """Return the bucket of a probability: `EDGES[bucket] <= score < EDGES[bucket + 1]`.

    >>> bucket(0.0), bucket(0.5), bucket(1.0)
    (0, 320, 640)
    """
    bits, rest = np.array([score, np.float32(1.0) - np.float32(score)], np.float32).view(np.int32).tolist()
    return int(_bucket(bits, rest))


def most_misses(n: int, recall: float) -> int:
    """Return how many of n positives may be missed; -1 if n are too few to tell.

    With that many misses or fewer, a recall below the target has a probability of at most 5 %: the exact binomial bound
    (Clopper & Pearson 1934).

    >>> most_misses(28, 0.9), most_misses(29, 0.9), most_misses(46, 0.9)
    (-1, 0, 1)
    """
    return int(_most_misses(n, recall))


@exact_kernel
def _bucket(bits: int, rest: int) -> int:
    """Return the bucket of a float32 with these bits, whose distance to 1 has the bits `rest`."""
    if bits < 126 << 23:  # below one half
        return max(bits - _LEAST, 0) >> _SHIFT
    return 2 * _HALF - min((max(rest - _LEAST, 0) + (1 << _SHIFT) - 1) >> _SHIFT, _HALF)


@exact_kernel
def _count(counts: Floats, rule: Floats, label: int, score: float, weight: float, short: float, long: float) -> None:
    one = np.empty(2, np.float32)
    one[0], one[1] = score, np.float32(1.0) - np.float32(score)
    bits = one.view(np.int32)
    counts[label, _bucket(bits[0], bits[1])] += weight * rule[GROWTH]
    rule[GROWTH] *= 1.0 + 1.0 / min(long, max(short, rule[NOTED] / 4.0))
    rule[NOTED] += 1.0
    if rule[NOTED] % _RENEW == 0.0:
        counts /= rule[GROWTH]
        rule[GROWTH] = 1.0


@exact_kernel
def _note(
    counts: Floats,
    rule: Floats,
    scores: Singles,
    y: Floats,
    weight: Singles,
    short: float,
    long: float,
    positives: bool,
) -> None:
    for row in range(len(y)):
        w = np.float64(weight[row])
        usable = (y[row] == 0.0 or y[row] == 1.0) and 0.0 < w < np.inf and np.isfinite(scores[row])
        if usable and (y[row] == 1.0 or not positives):
            _count(counts, rule, int(y[row]), scores[row], w, short, long)


@exact_kernel
def _follow(
    counts: Floats, rule: Floats, edges: Floats, scores: Singles, rate: float, short: float, long: float, decided: Ints
) -> None:
    for row in range(len(scores)):
        decided[row] = np.int64(np.float64(scores[row]) >= rule[THRESHOLD])
        if np.isfinite(scores[row]):
            _count(counts, rule, 0, scores[row], 1.0, short, long)
            if rule[NOTED] % EVERY == 0.0:
                _quantile(counts, rule, edges, rate)


@exact_kernel
def _cheapest(counts: Floats, rule: Floats, edges: Floats, false_alarm: float, miss: float) -> None:
    """Walk away from the fallback in both directions; take the edge with the lowest bound on its extra cost.

    The extra cost of an edge is a sum over the rows between it and the fallback. Its bound is that sum plus `DOUBT`
    standard errors, so that an edge is taken only for a saving that is more than noise.
    """
    growth = rule[GROWTH]
    rule[THRESHOLD], rule[LEARNED] = rule[FALLBACK], 0.0
    if min(counts[0].sum(), counts[1].sum()) < FEWEST * growth:
        return
    rule[LEARNED] = 1.0
    begin = 0
    while edges[begin] < rule[FALLBACK]:
        begin += 1
    best = 0.0
    for step in (1, -1):
        extra, spread, edge = 0.0, 0.0, begin
        while 0 <= edge + step < len(edges):
            at = edge if step > 0 else edge - 1
            negative, positive = counts[0, at] / growth, counts[1, at] / growth
            extra += step * (positive * miss - negative * false_alarm)
            spread += positive * miss * miss + negative * false_alarm * false_alarm
            edge += step
            bound = extra + DOUBT * np.sqrt(spread)
            if bound < best:
                best, rule[THRESHOLD] = bound, edges[edge]


@exact_kernel
def _quantile(counts: Floats, rule: Floats, edges: Floats, rate: float) -> None:
    """Take the quantile of the scores; within a bucket they count as evenly spread."""
    total = counts[0].sum()
    rule[THRESHOLD], rule[LEARNED] = rule[FALLBACK], 0.0
    if rule[NOTED] < SCORES:
        return
    rule[LEARNED] = 1.0
    above = 0.0
    for at in range(len(edges) - 2, -1, -1):
        held = counts[0, at]
        if held > 0.0 and above + held >= rate * total:
            high = min(edges[at + 1], 1.0)
            rule[THRESHOLD] = high - (high - edges[at]) * (rate * total - above) / held
            return
        above += held
    rule[THRESHOLD] = 0.0


@exact_kernel
def _keep_recall(counts: Floats, rule: Floats, edges: Floats, recall: float) -> None:
    """Take the highest edge below which there are few enough positives; while there are too few, the lowest positive's.

    The latter is the fallback where that is lower.
    """
    growth = rule[GROWTH]
    allowed = _most_misses(int(counts[1].sum() / growth + 1e-9), recall)
    rule[THRESHOLD], rule[LEARNED] = rule[FALLBACK], 0.0
    if allowed >= 0:
        rule[THRESHOLD], rule[LEARNED] = edges[-1], 1.0
    missed = 0.0
    for at in range(len(edges) - 1):
        missed += counts[1, at] / growth
        if missed > max(allowed, 0) + 1e-9:
            rule[THRESHOLD] = min(rule[THRESHOLD], edges[at])
            return


@exact_kernel
def _most_misses(n: int, recall: float) -> int:
    """Sum binomial probabilities in proportion to that of the mode, so that none but the negligible underflow."""
    if n <= 0:
        return -1
    terms = np.zeros(n + 1)
    mode = min(int((n + 1) * (1.0 - recall)), n)
    terms[mode] = 1.0
    odds = (1.0 - recall) / recall
    for k in range(mode, n):
        terms[k + 1] = terms[k] * (n - k) / (k + 1) * odds
    for k in range(mode, 0, -1):
        terms[k - 1] = terms[k] * k / (n - k + 1) / odds
    bound, below, most = LEVEL * terms.sum(), 0.0, -1
    for k in range(n + 1):
        below += terms[k]
        if below > bound:
            break
        most = k
    return most
