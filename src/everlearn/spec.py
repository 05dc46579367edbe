"""Every dial there is, with its default and its meaning: the records that `everlearn.toml` is read into.

Plain values without behaviour. `config.py` reads and writes them; each step of the loop is handed its own.
Bytes are bytes, windows are seconds, everything else that is counted is counted in labelled examples.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from everlearn.records import Scalar, Task

MIB = 1 << 20

Share = Annotated[float, Meta(gt=0, lt=1)]
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Schema(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a raw record holds, and what is to be predicted.

    `fields` maps a name to its kind: "numeric", "boolean", "categorical", "text", "datetime" or
    "vector[n]". `classes` lists the labels in class order (empty for a regression). Categories and words are
    hashed into 2**`bits` columns; `interactions` adds the products of all pairs of categorical fields.
    """

    label: str
    task: Task
    fields: dict[str, str]
    classes: tuple[Scalar, ...] = ()
    bits: Annotated[int, Meta(ge=8, le=28)] = 18
    interactions: bool = False


class GateSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """When a candidate replaces a reference.

    `alpha` bounds the probability of a false verdict. A candidate must be better by more than `tolerance`, on
    at least `minimum` examples and on whole multiples of `cycle` (0: the stream has no cycle that you know of).
    `loss` is "brier", "error" or "log_loss" for classes, "absolute" or "squared" for numbers; "auto" is brier or
    absolute. `guards` maps "recall:CLASS" to how much of that recall a promotion may cost.
    """

    loss: Literal["auto", "brier", "error", "log_loss", "absolute", "squared"] = "auto"
    alpha: Share = 0.05
    tolerance: NotNegative = 0.0
    minimum: Positive = 500
    cycle: Count = 0
    guards: dict[str, float] = {}


class DriftSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What watches the stream for change, and what happens then.

    `watch` is the champion's "loss", its predicted probability ("proba", no labels needed), or the first
    dense "inputs". `sensitivity` is the detector's false-alarm dial (a confidence, smaller is calmer); nothing
    is reported in the first `grace_period` examples, which calibrate it. `reaction`: "note" it only, "reset" the
    challenger, raise its learning "rate" for a while, or start a fresh "challenger" warmed on replay.
    """

    detector: Literal["adwin", "page_hinkley", "ddm", "kswin", "none"] = "adwin"
    watch: Literal["loss", "proba", "inputs"] = "loss"
    sensitivity: Share = 0.002
    grace_period: Positive = 500
    reaction: Literal["note", "reset", "rate", "challenger"] = "challenger"


class ReplaySpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is remembered: the last rows ("window"), a fair sample of all rows ("reservoir"), or a fair sample
    of each class ("balanced"), in `bytes`. Rows keep at most `width` hashed features."""

    kind: Literal["window", "reservoir", "balanced", "none"] = "window"
    bytes: Count = MIB
    width: Count = 64


class FeedbackSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How late feedback is treated.

    A prediction waits `window` seconds for its feedback (0: for ever), then takes the label `default`, or is
    dropped when there is none. At most `bytes` wait; the oldest go first. Feedback may come `early` seconds before
    its prediction (0: feedback for an unknown id is refused). A `correction` (a second, different judgement of one
    prediction) is learned as well ("learn"), only kept in the log ("ignore"), or learned with weights that undo the
    bias of default labels that were wrong ("importance").
    """

    window: NotNegative = 0.0
    default: Scalar | None = None
    early: NotNegative = 0.0
    correction: Literal["learn", "ignore", "importance"] = "learn"
    bytes: Positive = 256 * MIB


class LimitsSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How much damage bad rows and bad labels can do at most.

    Dense features are clipped to their learnt quantiles `clip` and 1 - `clip` (0: they are not). A label weighs at
    most `weight`. Of what was learned in the last `window` labelled examples, at most the share `source` may come from
    one source (1: no limit). Labels with a loss above its learnt quantile `quarantine` are set aside and not
    learned (1: none is).
    """

    clip: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0
    weight: Annotated[float, Meta(gt=0)] = 100.0
    source: Annotated[float, Meta(gt=0, le=1)] = 1.0
    window: Positive = 1000
    quarantine: Annotated[float, Meta(gt=0.5, le=1)] = 1.0


class ServeSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How `everlearn serve` answers.

    `workers` processes answer at `host`:`port`; requests must be addressed to localhost or one of `hosts`. What serves
    includes every label older than `staleness` seconds, or an alarm is raised. The share `canary` of the traffic is
    answered by the gate's candidate. A request has at most `body` bytes and `batch` rows, and one token (or
    address) may send `rate` requests a second to each worker (0: any number). Challengers started over HTTP are of
    built-in families or of these `families` ("module:function"). Alerts go to `webhook`, at a `private` address
    only if that is allowed; traces go to the OpenTelemetry collector at `traces`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    hosts: tuple[str, ...] = ()
    staleness: Annotated[float, Meta(gt=0)] = 5.0
    canary: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    body: Positive = MIB
    batch: Positive = 1000
    rate: NotNegative = 0.0
    families: tuple[str, ...] = ()
    webhook: str = ""
    private: bool = False
    traces: str = ""


class LogSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Whether rows of a file are appended to the log ("always") or the file itself is the log ("auto"; standard
    input is appended even so), and what an acknowledged event survives: the death of the "process", or the loss
    of "power" as well."""

    rows: Literal["auto", "always"] = "auto"
    durability: Literal["process", "power"] = "process"


class Spec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A whole loop.

    `mode` is "gated" (the champion stays as it is until the gate promotes) or "live" (every update serves at
    once, a guard rolls back). `warm_start` is a share (below 1) or a number of rows to train on offline first, in
    `epochs` passes. Decisions fall only after each `tick` examples, checkpoints after each `checkpoint`; of old
    versions the `keep` newest keep their arrays. At most `challengers` learn at a time.
    """

    schema: Schema
    model: dict[str, Any] = field(default_factory=lambda: {"family": "linear"})
    source: str = ""
    home: str = ""
    mode: Literal["gated", "live"] = "gated"
    seed: Annotated[int, Meta(ge=0, le=(1 << 62))] = 0
    warm_start: NotNegative = 0.0
    epochs: Positive = 1
    tick: Positive = 100
    checkpoint: Positive = 50_000
    keep: Positive = 50
    challengers: Positive = 2
    subject: str = ""
    gate: GateSpec = GateSpec()
    drift: DriftSpec = DriftSpec()
    replay: ReplaySpec = ReplaySpec()
    feedback: FeedbackSpec = FeedbackSpec()
    log: LogSpec = LogSpec()
    limits: LimitsSpec = LimitsSpec()
    serve: ServeSpec = ServeSpec()
