"""Everything that is measured, for Prometheus: base units, conventional names, and no ids in labels.

Nothing is kept here: each scrape reads what the workers counted, what the learner last wrote, and the archive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import everlearn
from everlearn.app.admin import rates
from everlearn.app.admin.queries import Archive
from everlearn.app.admin.rates import Counts
from everlearn.app.admin.traffic import Traffic
from everlearn.app.counters import BOUNDS

CLASSES = 50  # of the replay memory; more would be more series than anyone looks at

Labels = tuple[str, ...]
Values = Iterable[tuple[Sequence[str], float | None]]


class Collector:
    """Reads all metrics at the moment of a scrape."""

    def __init__(self, traffic: Traffic, archive: Archive) -> None:
        self._traffic = traffic
        self._archive = archive

    def collect(self) -> Iterator[Metric]:
        """All metrics; those of the learner only once it has written its status."""
        yield from _server(self._traffic, self._archive)
        yield from _requests(self._traffic.counts())
        status = self._traffic.status
        if status is not None:
            yield from _progress(status, self._traffic)
            yield from _quality(status)
            yield from _memory(status)
            yield from _gate(status)


def registry(traffic: Traffic, archive: Archive) -> CollectorRegistry:
    """What prometheus_client encodes."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Collector(traffic, archive))
    return made


def _server(traffic: Traffic, archive: Archive) -> Iterator[Metric]:
    archive.follow()
    yield _gauge("build_info", "The release that runs.", ("version",), [((everlearn.__version__,), 1.0)])
    processes = traffic.processes()
    yield _gauge(
        "process_up",
        "Whether a process of the server runs.",
        ("process",),
        [((name,), float(one is not None)) for name, one in processes.items()],
    )
    yield _gauge(
        "process_resident_memory_bytes",
        "Memory of a process of the server.",
        ("process",),
        [((name,), one.memory) for name, one in processes.items() if one],
    )
    yield _gauge("status_age_seconds", "Since the learner last wrote its status.", (), [((), traffic.age())])
    yield _gauge(
        "staleness_seconds", "What serves includes every label older than this.", (), [((), traffic.staleness())]
    )
    bound = traffic.spec.serve.staleness
    yield _gauge("staleness_bound_seconds", "What staleness must not exceed.", (), [((), bound)])
    yield _gauge("champion_versions_behind", "Versions younger than the champion.", (), [((), archive.behind())])
    yield _gauge("log_end_position", "Position of the newest event of the log.", (), [((), archive.end())])
    yield _gauge("versions", "Versions that there are.", (), [((), len(archive.versions.list()))])
    decisions = [((action,), float(number)) for action, number in sorted(archive.actions().items())]
    yield _counter("decisions", "Decisions in the log.", ("action",), decisions)
    chain = archive.chain()
    yield _gauge("decisions_sealed", "Whether the seals fit the decisions (1) or not (0).", (), [((), float(chain.ok))])


def _requests(found: Counts) -> Iterator[Metric]:
    """What the workers counted."""
    answered = [
        ((route, kind), float(rates.answered(found, route, kind))) for route in rates.ROUTES for kind in rates.CLASSES
    ]
    yield _counter("requests", "Requests on the hot routes.", ("route", "status"), answered)
    took = HistogramMetricFamily(
        "everlearn_request_duration_seconds", "From a request to its reply, in the worker.", labels=("route",)
    )
    for route, taken in sorted(found["seconds"].items()):
        total, buckets = 0, []
        for bound, number in zip([*map(str, BOUNDS), "+Inf"], taken["buckets"], strict=True):
            total += number
            buckets.append((bound, float(total)))
        took.add_metric((route,), buckets, taken["sum"])
    yield took
    for name, counted, what in (
        ("request_bytes", "bytes", "Bytes of the bodies of requests."),
        ("requests_limited", "limited", "Requests refused because one caller sent too many."),
        ("requests_overflowed", "full", "Requests refused because too many waited."),
        ("log_commits", "commits", "Groups that workers wrote to the log."),
        ("log_committed_events", "commit_rows", "Events that workers wrote to the log."),
    ):
        yield _counter(name, what, (), [((), float(found["counts"].get(counted, 0)))])


def _progress(status: Mapping[str, Any], traffic: Traffic) -> Iterator[Metric]:
    """How far the learner is, and what it publishes."""
    learner, lag = status["learner"], traffic.lag()  # the learner's own word on its lag may be old
    yield _gauge("log_folded_position", "Position of the last event that was learned.", (), [((), traffic.folded())])
    yield _gauge("lag_events", "Events that wait to be learned.", (), [((), lag["events"])])
    yield _gauge("lag_seconds", "Age of the oldest event that waits to be learned.", (), [((), lag["seconds"])])
    kinds = [((kind,), float(number)) for kind, number in status["counts"].items()]
    yield _counter("events", "Events in the log.", ("kind",), kinds)
    yield _counter("examples", "Labelled examples that were tested on, then learned.", (), [((), status["examples"])])
    yield _counter("snapshots_published", "Snapshots published.", (), [((), learner["published"])])
    yield _gauge(
        "publish_duration_seconds", "Time to publish the last snapshot.", (), [((), learner["publish_seconds"])]
    )
    rate = learner["events_per_second"]
    yield _gauge("learner_events_per_second", "Events that the learner takes a second.", (), [((), rate)])


def _quality(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Prequential metrics, and drift."""
    measured = [
        ((role, name), value)
        for role, metrics in status["metrics"].items()
        for name, value in metrics.items()
        if name not in ("examples", "unscored")
    ]
    yield _gauge(
        "prequential", "Metrics of answers given before their labels, since the start.", ("role", "metric"), measured
    )
    scored = [((role,), metrics.get("examples", 0)) for role, metrics in status["metrics"].items()]
    yield _counter("scored_examples", "Examples on which a role was tested.", ("role",), scored)
    drift = status["drift"]
    states = [((state,), float(drift["state"] == state)) for state in ("stable", "warning", "drift")]
    yield _gauge("drift_state", "1 for the state that the drift detector is in.", ("state",), states)
    yield _counter("drift_warnings", "Warnings of the drift detector.", (), [((), drift["warnings"])])
    yield _counter("drifts", "Drifts that were detected.", (), [((), drift["drifts"])])


def _memory(status: Mapping[str, Any]) -> Iterator[Metric]:
    """What waits, what was held back, and what is remembered."""
    yield _gauge("waiting_predictions", "Predictions that wait for feedback.", (), [((), status["waiting"])])
    yield _gauge("early_feedback", "Feedback that waits for its prediction.", (), [((), status["early"])])
    yield _counter("evicted_predictions", "Predictions dropped for room.", (), [((), status["evicted"])])
    yield _counter("quarantined_labels", "Labels set aside for their loss.", (), [((), status["quarantined"])])
    yield _counter("capped_labels", "Labels that weighed more than they may.", (), [((), status["capped"])])
    yield _counter("reduced_labels", "Labels learned with less weight for their source.", (), [((), status["reduced"])])
    yield _counter("refused_labels", "Labels not learned for their source.", (), [((), status["refused"])])
    yield _counter("unusable_labels", "Labels in the log that the task cannot use.", (), [((), status["unusable"])])
    replay = status["replay"]
    yield _gauge("replay_bytes", "Size of the replay memory.", (), [((), replay["bytes"])])
    rows = [((name,), float(number)) for name, number in list(replay["classes"].items())[:CLASSES]]
    yield _gauge("replay_rows", "Rows in the replay memory.", ("class",), rows or [(("",), replay["rows"])])


def _gate(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Each question of the gate, by the roles that it is about; a role that asks twice is numbered."""
    seen: Counter[tuple[str, str]] = Counter()
    asked = []
    for one in status["gate"]:
        pair = (one["role"], one["reference_role"])
        seen[pair] += 1
        asked.append(((pair[0] if seen[pair] == 1 else f"{pair[0]}-{seen[pair]}", pair[1]), one))
    roles = ("role", "reference")
    for name, what in (
        ("log_e_better", "Natural logarithm of the e-value for the candidate being better."),
        ("log_e_worse", "Natural logarithm of the e-value for the candidate being worse."),
        ("threshold", "What a logarithm of an e-value must reach."),
        ("difference", "Mean loss of the reference less that of the candidate."),
        ("low", "Lower end of the confidence sequence of the difference."),
        ("high", "Upper end of the confidence sequence of the difference."),
        ("examples", "Examples that were compared."),
    ):
        yield _gauge(f"gate_{name}", what, roles, [(labels, one[name]) for labels, one in asked])


def _counter(name: str, what: str, labels: Labels, values: Values) -> Metric:
    family = CounterMetricFamily(f"everlearn_{name}", what, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value)
    return family


def _gauge(name: str, what: str, labels: Labels, values: Values) -> Metric:
    family = GaugeMetricFamily(f"everlearn_{name}", what, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value)
    return family
