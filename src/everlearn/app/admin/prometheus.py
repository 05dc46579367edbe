"""Export all metrics to Prometheus, in base units, with conventional names, and without ids in labels.

The exporter keeps no state: each scrape reads the workers' counters, the learner's last status, and the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import everlearn
from everlearn.app.admin import rates
from everlearn.app.admin.live_status import LiveStatus
from everlearn.app.admin.processes import Process
from everlearn.app.admin.queries import LogQueries
from everlearn.app.admin.rates import Counts
from everlearn.app.counters import BOUNDS
from everlearn.feedback.names import report

CLASSES = 50  # of the replay memory that are exported, at most

Labels = tuple[str, ...]
Values = Iterable[tuple[Sequence[str], float | None]]


class Collector:
    """Collector of all metrics, which reads them at the moment of a scrape."""

    def __init__(self, live: LiveStatus, queries: LogQueries) -> None:
        self._live = live
        self._queries = queries

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; those of the learner only after it has written its status."""
        yield from _server(self._live, self._queries)
        counts = self._live.counts()
        yield from requests(counts)
        yield from _fields(counts)
        status = self._live.status
        if status is not None:
            yield from _progress(status, self._live)
            yield from _quality(status)
            yield from _memory(status)
            yield from _gate(status)
            yield from _policies(status.get("preference"))
            yield from _actions(status.get("bandit"))
            yield from _asking(self._live.asking() if "preference" in status else None)


def registry(live: LiveStatus, queries: LogQueries) -> CollectorRegistry:
    """Return a registry for prometheus_client to encode."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Collector(live, queries))
    return made


def _server(live: LiveStatus, queries: LogQueries) -> Iterator[Metric]:
    queries.follow()
    yield from build_and_processes(live.processes())
    yield gauge("status_age_seconds", "Seconds since the learner last wrote its status.", (), [((), live.age())])
    yield gauge(
        "staleness_seconds", "Every label older than this is in the serving weights.", (), [((), live.staleness())]
    )
    bound = live.spec.serve.staleness
    yield gauge("staleness_bound_seconds", "The configured bound of the staleness.", (), [((), bound)])
    behind = queries.versions_behind()
    yield gauge("champion_versions_behind", "Number of versions newer than the champion.", (), [((), behind)])
    yield gauge("log_end_position", "Position of the newest event of the log.", (), [((), queries.end())])
    yield gauge("versions", "Number of versions.", (), [((), len(queries.versions.list()))])
    decisions = [((action,), float(number)) for action, number in sorted(queries.actions().items())]
    yield _counter("decisions", "Decisions in the log.", ("action",), decisions)
    chain = queries.chain()
    yield gauge("decisions_sealed", "1 if the seals match the decisions, 0 if not.", (), [((), float(chain.ok))])


def build_and_processes(processes: Mapping[str, Process | None]) -> Iterator[Metric]:
    """Yield the release, and which of the expected processes run, with their memory."""
    yield gauge("build_info", "The release in use.", ("version",), [((everlearn.__version__,), 1.0)])
    yield gauge(
        "process_up",
        "1 if a process of the server runs, 0 if not.",
        ("process",),
        [((name,), float(process is not None)) for name, process in processes.items()],
    )
    yield gauge(
        "process_resident_memory_bytes",
        "Resident memory of a process of the server.",
        ("process",),
        [((name,), process.memory) for name, process in processes.items() if process],
    )


def requests(found: Counts) -> Iterator[Metric]:
    """Yield the workers' counters."""
    answered = [
        ((route, kind), float(rates.answered(found, route, kind))) for route in rates.ROUTES for kind in rates.CLASSES
    ]
    yield _counter("requests", "Requests to /predict, /feedback and /learn.", ("route", "status"), answered)
    took = HistogramMetricFamily(
        "everlearn_request_duration_seconds", "Time from a request to its reply, in the worker.", labels=("route",)
    )
    for route, taken in sorted(found["seconds"].items()):
        total, buckets = 0, []
        for bound, number in zip([*map(str, BOUNDS), "+Inf"], taken["buckets"], strict=True):
            total += number
            buckets.append((bound, float(total)))
        took.add_metric((route,), buckets, taken["sum"])
    yield took
    for name, counter, description in (
        ("request_bytes", "bytes", "Bytes of request bodies."),
        ("requests_limited", "limited", "Requests refused because a caller exceeded its rate."),
        ("heads_refused", "heads_refused", "Requests refused because their head was too large, or no HTTP."),
        ("heads_late", "heads_late", "Connections closed because no request came in time."),
        ("connections_closed", "connections_closed", "Idle connections closed because too many were open."),
        ("connections_refused", "connections_refused", "Connections refused because too many had a request under way."),
        ("requests_overflowed", "full", "Requests refused because too many were waiting."),
        ("log_commits", "commits", "Group commits by workers."),
        ("log_committed_events", "commit_rows", "Events written to the log by workers."),
    ):
        yield _counter(name, description, (), [((), float(found["counts"].get(counter, 0)))])


def _fields(found: Counts) -> Iterator[Metric]:
    """Yield the names that no field has, and the fields that records lack."""
    named = report(found["counts"], ())
    unknown = [((name,), float(one["rows"])) for name, one in named["unknown"].items()]
    yield _counter("unknown_fields", "Records with a name that no field has.", ("field",), unknown)
    missing = [((name,), float(rows)) for name, rows in named["missing"].items()]
    yield _counter("missing_fields", "Records without a field.", ("field",), missing)


def _progress(status: Mapping[str, Any], live: LiveStatus) -> Iterator[Metric]:
    """Yield the progress of the learner, and the snapshots that it published."""
    learner, lag = status["learner"], live.lag()  # measured now: the lag in the status may be old
    yield gauge(
        "log_folded_position", "Position of the last event that the learner has folded.", (), [((), live.folded())]
    )
    yield gauge("lag_events", "Events not folded yet.", (), [((), lag["events"])])
    yield gauge("lag_seconds", "Age of the oldest event not folded yet.", (), [((), lag["seconds"])])
    kinds = [((kind,), float(number)) for kind, number in status["counts"].items()]
    yield _counter("events", "Events in the log.", ("kind",), kinds)
    yield _counter("examples", "Labelled examples scored, then learned.", (), [((), status["examples"])])
    yield _counter("snapshots_published", "Snapshots published.", (), [((), learner["published"])])
    yield gauge(
        "publish_duration_seconds", "Time to publish the last snapshot.", (), [((), learner["publish_seconds"])]
    )
    rate = learner["events_per_second"]
    yield gauge("learner_events_per_second", "Events that the learner folds a second.", (), [((), rate)])


def _quality(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the prequential metrics, and drift."""
    measured = [
        ((role, name), value)
        for role, metrics in status["metrics"].items()
        for name, value in metrics.items()
        if name not in ("examples", "unscored")
    ]
    yield gauge(
        "prequential", "Metrics of predictions made before their labels, since the start.", ("role", "metric"), measured
    )
    split = [
        ((segment, name), value)
        for segment, metrics in status.get("segments", {}).items()
        for name, value in metrics.items()
    ]
    if split:
        yield gauge("segment", "Prequential metrics of the champion by segment.", ("segment", "metric"), split)
    scored = [((role,), metrics.get("examples", 0)) for role, metrics in status["metrics"].items()]
    yield _counter("scored_examples", "Examples on which a role was scored.", ("role",), scored)
    drift = status["drift"]
    states = [((state,), float(drift["state"] == state)) for state in ("stable", "warning", "drift")]
    yield gauge("drift_state", "1 for the current state of the drift detector.", ("state",), states)
    yield _counter("drift_warnings", "Warnings of the drift detector.", (), [((), drift["warnings"])])
    yield _counter("drifts", "Drifts detected.", (), [((), drift["drifts"])])


def _memory(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the size of the waiting set, the labels set aside, and the replay memory."""
    yield gauge("waiting_predictions", "Predictions waiting for feedback.", (), [((), status["waiting"])])
    yield gauge("early_feedback", "Feedback waiting for its prediction.", (), [((), status["early"])])
    yield _counter("evicted_predictions", "Predictions evicted from the waiting set.", (), [((), status["evicted"])])
    yield _counter("quarantined_labels", "Labels quarantined for their loss.", (), [((), status["quarantined"])])
    yield _counter("capped_labels", "Labels whose weight was capped.", (), [((), status["capped"])])
    yield _counter(
        "reduced_labels", "Labels whose weight was reduced because of their source.", (), [((), status["reduced"])]
    )
    yield _counter("refused_labels", "Labels refused because of their source.", (), [((), status["refused"])])
    yield _counter("unusable_labels", "Labels in the log that do not fit the task.", (), [((), status["unusable"])])
    replay = status["replay"]
    yield gauge("replay_bytes", "Size of the replay memory.", (), [((), replay["bytes"])])
    rows = [((name,), float(number)) for name, number in list(replay["classes"].items())[:CLASSES]]
    yield gauge("replay_rows", "Rows in the replay memory.", ("class",), rows or [(("",), replay["rows"])])


def _gate(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield each comparison of the gate, by its two roles; a second comparison of the same roles is numbered."""
    seen: Counter[tuple[str, str]] = Counter()
    comparisons = []
    for comparison in status["gate"]:
        pair = (comparison["role"], comparison["reference_role"])
        seen[pair] += 1
        role = pair[0] if seen[pair] == 1 else f"{pair[0]}-{seen[pair]}"
        comparisons.append(((role, pair[1]), comparison))
    roles = ("role", "reference")
    for name, description in (
        ("log_e_better", "Natural logarithm of the e-value for the candidate being better."),
        ("log_e_worse", "Natural logarithm of the e-value for the candidate being worse."),
        ("threshold", "Value that the logarithm of an e-value must reach for a verdict."),
        ("difference", "Mean loss of the reference minus that of the candidate."),
        ("low", "Lower end of the confidence sequence of the difference."),
        ("high", "Upper end of the confidence sequence of the difference."),
        ("examples", "Examples compared."),
    ):
        yield gauge(f"gate_{name}", description, roles, [(labels, values[name]) for labels, values in comparisons])


def _policies(found: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Yield the metrics of a loop that learns preferences."""
    if found is None:
        return
    measures = "win", "equal_length", "overrated"
    duels = [
        ((one["candidate"], measure, bound), one[measure][bound])
        for one in found["duels"]
        for measure in measures
        for bound in ("value", "low", "high")
    ]
    described = "Measures of the judged duels of a candidate, with the bounds of their confidence sequences."
    yield gauge("duel", described, ("role", "measure", "bound"), duels)
    counts = [((one["candidate"],), float(one["count"])) for one in found["duels"]]
    yield gauge("duels", "Judged duels of a candidate.", ("role",), counts)
    policy = [((name,), value) for name, value in (found.get("policy") or {}).items()]
    yield gauge("policy", "Measurements of the policy's newest rounds.", ("measure",), policy)
    brier = [((arm,), error) for arm, error in found.get("brier", {}).items()]
    yield gauge("reward_brier", "Recent error of the reward model, by arm of the question.", ("arm",), brier)
    yield gauge("strange_ratio", "Recent share of pairs out of distribution.", (), [((), found.get("strange"))])
    lag = found["lag"]["seconds"]
    yield gauge("judgement_lag_seconds", "Recent mean of seconds from question to judgement.", (), [((), lag)])
    alarms = sum(len(reasons) for reasons in found["guards"].values())
    yield gauge("policy_alarms", "Guards whose limit is exceeded.", (), [((), float(alarms))])


def _actions(found: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Yield the metrics of a loop that chooses actions."""
    if found is None:
        return
    served = [((one["action"],), float(one["served"])) for one in found["actions"]]
    yield _counter("actions_served", "Times that an action was served.", ("action",), served)
    yield _counter(
        "fallbacks", "Answers with the fallback, as the model failed.", (), [((), float(found["fallbacks"]))]
    )
    values = {"served": found["served"], **found["policies"]}
    bounds = [((name, bound), one.get(bound)) for name, one in values.items() for bound in ("value", "low", "high")]
    described = "Mean reward of what was served, and off-policy values of policies, with confidence sequences."
    yield gauge("policy_value", described, ("policy", "bound"), bounds)


def _asking(found: Mapping[str, Any] | None) -> Iterator[Metric]:
    """Yield the metrics of what a generator asks."""
    if found is None:
        return
    sources = [((one["kind"],), one) for one in found["sources"]]
    for name, field, described in (
        ("spend", "spent", "Cost of the labels of a kind of source since the start of the log."),
        ("spend_hour", "hour", "Cost of the labels of a kind of source in this hour."),
        (
            "win_per_unit",
            "win_per_unit",
            "Win in duels above one half, by the labels of a source, for each unit spent.",
        ),
    ):
        yield gauge(name, described, ("source",), [(key, one[field]) for key, one in sources])
    bounds = [
        ((one["source"].partition("@")[0], bound), one[bound])
        for one in found["agreement"][-1:]
        for bound in ("share", "low", "high")
    ]
    yield gauge("agreement_ratio", "Agreement of the newest judge with people.", ("source", "bound"), bounds)
    yield gauge("asking", "1 while questions are asked, 0 while labels teach nothing.", (),
                 [((), float(found["state"] == "asking"))])  # fmt: skip
    pays = float(found["selector"] == found["configured"])
    yield gauge("selector_active", "1 while pairs are chosen as configured, else 0.", (), [((), pays)])
    yield gauge("question_information", "Nats that the newest random questions promised.", (),
                 [((), found["information"])])  # fmt: skip
    yield gauge("skipped_prompts", "Prompts in the file that are too long.", (), [((), found["skipped_prompts"])])
    trouble = found["judge"] and float(bool(found["judge"]["trouble"]))
    yield gauge("judge_trouble", "1 while the judge gives no verdict.", (), [((), trouble)])
    for name in ("random", "inverted"):
        count = sum(one["named"] == name for one in found["annotators"])
        yield gauge(f"{name}_annotators", f"Annotators that are named {name}.", (), [((), float(count))])


def _counter(name: str, description: str, labels: Labels, values: Values) -> Metric:
    family = CounterMetricFamily(f"everlearn_{name}", description, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value)
    return family


def gauge(name: str, description: str, labels: Labels, values: Values) -> Metric:
    """Return a gauge, without the values that are None."""
    family = GaugeMetricFamily(f"everlearn_{name}", description, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value)
    return family
