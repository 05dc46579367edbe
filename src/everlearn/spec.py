"""Every setting of a loop, with its default and meaning: the records that `everlearn.toml` is read into.

Plain values without behaviour. `config` reads and writes them; each step of the loop receives its own record.
Bytes are bytes, windows are seconds, and all other counts are in labelled examples.

A few fields are in stored specs only (`STORED_ONLY`). A file cannot set them: a loop takes them from its home, where
they keep the value that the loop started with. So a later release can change how it derives them, and leaves old homes
as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from everlearn.records import Loss, Scalar, Task

MIB = 1 << 20
MOST_BYTES = MIB  # of the body of one HTTP request
MOST_ROWS = 1000  # in one HTTP request
LAYOUT = 1  # newest layout of encoded rows; see `everlearn.schema`
KEEP_BYTES = 64 * MIB
LOG_LAYOUT = 2  # newest form of stored versions
GATE_LAYOUT = 2  # newest rules of the gate and of the seat; layout 1 has those of release 0.1.0

RULES = 2  # newest rules by which raw values are read; 1 are those of release 0.1.0
STORED_ONLY = (
    "schema.layout", "schema.rules", "gate.layout", "gate.own", "replay.width", "limits.window", "log.rows",
    "log.layout",
)  # fmt: skip

Share = Annotated[float, Meta(gt=0, lt=1)]
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Decimal = Literal[".", ","]
DateOrder = Literal["day first", "month first"]


class Schema(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The fields of a raw record, and the label to predict.

    `fields` maps a name to its kind: "numeric", "integer", "boolean", "categorical", "text", "datetime",
    "vector[n]" or "tokens". `classes` lists the labels in class order (empty for a regression). Categories and words
    are hashed into 2**`bits` columns; `interactions` adds the products of all pairs of categorical fields.

    `decimal` is the mark before decimals in numbers written as text: for all fields, or by field. `dates` says of a
    field, or of a column of times, with dates such as 03/04/2015 which number is first. `missing` maps a field to
    values that mean "missing". `origin` maps numeric and vector fields to a number that is subtracted from each value,
    in float64, before the value becomes a float32: the changes of a timestamp or a meter are lost without it.
    `unlabelled` is the class of rows of files that have no label, for models that need none; a file may then lack the
    column.

    `layout` numbers the way in which rows are encoded, and `rules` those by which raw values are read (stored specs
    only).

    The task "preference" has no classes, and its fields are kept beside each pair of answers. It alone has the other
    settings: a prompt has at most `prompt_tokens` tokens and an answer `answer_tokens`, ids are below `vocabulary`, and
    models know as many `annotators`, `sources` (what a bias belongs to) and `groups` apart.

    The task "bandit" chooses one of 2 to 256 `actions`, and learns from the reward of the chosen one. `label` names the
    reward, a number within `rewards`. `action_fields` are fields of each action, "numeric" or "boolean". In rows of a
    file, `action` names the column of the action that was taken, and `propensity` that of its probability; "uniform"
    says that all actions had the same.
    """

    label: str
    task: Task
    fields: dict[str, str]
    classes: tuple[Scalar, ...] = ()
    bits: Annotated[int, Meta(ge=8, le=28)] = 18
    interactions: bool = False
    origin: dict[str, float] = {}
    unlabelled: Scalar | None = None
    prompt_tokens: Positive = 512
    answer_tokens: Positive = 256
    vocabulary: Count = 0
    annotators: Positive = 64
    sources: Positive = 16
    groups: Positive = 64
    actions: tuple[str, ...] = ()
    action_fields: dict[str, Literal["numeric", "boolean"]] = {}
    rewards: tuple[float, float] = (0.0, 1.0)
    action: str = "action"
    propensity: str = "propensity"
    decimal: Decimal | dict[str, Decimal] = "."
    dates: dict[str, DateOrder] = {}
    missing: dict[str, tuple[Scalar, ...]] = {}
    layout: Positive = LAYOUT
    rules: Positive = RULES


class GateSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """When a candidate replaces a reference.

    `alpha` bounds the probability of a false verdict. A candidate must be better by more than `tolerance`, on
    at least `minimum` examples and on whole multiples of `cycle` (0: the stream has no known cycle), both counted in
    examples of weight above 0. In `gated` mode, `promote` says what may take the seat: a "learner", which learns on as
    it serves, or only a frozen "snapshot" of one.
    `loss` is "brier", "error" or "log_loss" for classes, "absolute" or "squared" for numbers; "auto" is the loss that
    the loop's model is trained for, if its family exposes one, else brier or absolute. "pinball" and "huber" are those
    of a model that is trained for them. `guards` maps "recall:CLASS" to the most of that recall that a promotion may
    cost. In stored specs only: `own` is the loss that the model exposed when the loop started, and `layout` numbers the
    rules for losses and for the seat: 1 are those of release 0.1.0.
    """

    loss: Literal["auto", "brier", "error", "log_loss", "absolute", "squared", "pinball", "huber"] = "auto"
    alpha: Share = 0.05
    tolerance: NotNegative = 0.0
    minimum: Positive = 500
    promote: Literal["learner", "snapshot"] = "learner"
    cycle: Count = 0
    guards: dict[str, float] = {}
    own: Loss | None = None
    layout: Positive = GATE_LAYOUT


class DriftSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The detector that watches the stream for drift, and the reaction to it.

    `watch` is the champion's "loss", its predicted probability ("proba", no labels needed), or the first dense
    "inputs", which share one sensitivity. `sensitivity` sets the rate of false alarms (a confidence, smaller is
    calmer); the detector reports nothing in the first `grace_period` examples, which calibrate it. `reaction`: only
    "note" the drift, "reset" the challenger, raise its learning "rate" for a while, or start a fresh "challenger"
    warmed on the rows since the change.
    """

    detector: Literal["adwin", "page_hinkley", "ddm", "kswin", "none"] = "adwin"
    watch: Literal["loss", "proba", "inputs"] = "loss"
    sensitivity: Share = 0.002
    grace_period: Positive = 500
    reaction: Literal["note", "reset", "rate", "challenger"] = "challenger"


class ReplaySpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The rows in the replay memory: the last rows ("window"), a fair sample of all rows ("reservoir"), or a fair
    sample of each class ("balanced"), in `bytes`.

    A row keeps at most `width` hashed features (stored specs only); a loop needs fewer where its schema has no text.
    """

    kind: Literal["window", "reservoir", "balanced", "none"] = "window"
    bytes: Count = MIB
    width: Count = 64


class FeedbackSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The treatment of late feedback.

    A prediction waits `window` seconds for its feedback (0: for ever), then takes the label `default`, or is
    dropped if there is none. At most `bytes` wait; the oldest go first. Feedback may come `early` seconds before
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
    """Bounds on the damage that bad rows and bad labels can do.

    Dense features are clipped to their learnt quantiles `clip` and 1 - `clip` (0: they are not). A label weighs at
    most `weight`. Of the last `window` labelled examples that were learned (stored specs only), at most the share
    `source` may come from one source (1: no limit). Labels with a loss above its learnt quantile `quarantine` are set
    aside and not learned (1: none is).
    """

    clip: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0
    weight: Annotated[float, Meta(gt=0)] = 100.0
    source: Annotated[float, Meta(gt=0, le=1)] = 1.0
    window: Positive = 1000
    quarantine: Annotated[float, Meta(gt=0.5, le=1)] = 1.0


class MetricsSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Measurements beside the usual metrics.

    `share` is the share of rows that may be alerts, at which the recall of a binary task is reported: a row is an alert
    if its score is above that quantile of the last 10,000 scores. `segment` is a categorical field: its first 50 values
    are also measured apart.
    """

    share: Annotated[float, Meta(ge=0.0001, lt=1)] = 0.01
    segment: str = ""


class ServeSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The settings of `everlearn serve`.

    `workers` processes answer at `host`:`port`; requests must be addressed to localhost or one of `hosts`. The served
    model includes every label older than `staleness` seconds, or an alarm is raised. The share `canary` of the traffic
    is answered by the gate's candidate. One token (or address) may send `rate` requests a second to each worker (0: any
    number). Challengers started over HTTP are of built-in families or of these `families` ("module:function"). Alerts
    go to `webhook`, at a `private` address only if that is allowed; traces go to the OpenTelemetry collector at
    `traces`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    hosts: tuple[str, ...] = ()
    staleness: Annotated[float, Meta(gt=0)] = 5.0
    canary: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    rate: NotNegative = 0.0
    families: tuple[str, ...] = ()
    webhook: str = ""
    private: bool = False
    traces: str = ""


class LogSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The failure that an acknowledged event survives: the death of the "process", or the loss of "power" as well.

    `url` is where events are kept: postgresql://HOST/DATABASE, nats://HOST/STREAM or kafka://HOST:PORT/TOPIC; "" is
    the folder of the loop.
    `book` is where decisions and checkpoints are kept if a broker keeps the events: postgresql://HOST/DATABASE; "" is
    that folder. `blobs` is where snapshots are kept: s3://BUCKET/PREFIX, gs:// or az://; "" is that folder. With
    `encrypt`, the events of each subject are encrypted with a key of the subject, which is not in the log, so that the
    loss of the key erases them everywhere.

    `rows` (stored specs only) is "auto" where the rows of a file are read from the file itself, "always" where they are
    appended to the log first, and "subject" where they are appended if the loop has a `subject`. `layout` (stored specs
    only) numbers the form of stored versions: since 2 they leave out the empty blocks of large arrays.
    """

    durability: Literal["process", "power"] = "process"
    url: str = ""
    book: str = ""
    blobs: str = ""
    encrypt: bool = False
    rows: Literal["subject", "auto", "always"] = "subject"
    layout: Positive = LOG_LAYOUT


class DecisionSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The rule that turns probabilities into a decision, `Prediction.value`; at most one of the three may be set.

    `costs` maps a true class, then a decided class, to what that decision costs (absent pairs: 0); the rule keeps the
    cost low. For two classes, `rate` is the share of rows to decide positive (the second of `schema.classes`), and
    `recall` the share of the positives to decide positive at least. Without any, the likeliest class is decided.
    """

    costs: dict[str, dict[str, NotNegative]] = {}
    rate: Share | None = None
    recall: Share | None = None


class BanditSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The safety of a loop that chooses actions (task "bandit").

    `fallback` is the action that is served, with propensity 1, where the model that answers fails; without one such a
    request is refused.
    """

    fallback: str = ""


class JudgeSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The judge that a server asks about pairs of answers by itself (task "preference").

    It is the model `model` at the OpenAI-compatible endpoint `url`, with a `rubric` (a file), or the trusted Python
    `function` ("module:function") of a prompt and two answers. `key` names the environment variable of the API key. A
    verdict costs `price`, and an hour at most `budget` (0: any amount). `at_once` pairs are judged at the same time.
    """

    name: str = "judge"
    url: str = ""
    model: str = ""
    key: str = ""
    rubric: str = ""
    function: str = ""
    price: NotNegative = 0.0
    budget: NotNegative = 0.0
    at_once: Annotated[int, Meta(ge=1, le=256)] = 4


class AskSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The questions that a server asks people, and those that go to several judges (task "preference").

    A person's judgement costs `price`, and an hour at most `budget` (0: any amount). The share `both` of pairs goes to
    two people, and to the judge as well. The share `planted` of an annotator's questions is gold questions, from the
    file `gold`, and as many are repeated ones. Asking stops when questions promise less than `least` nats (0: never).
    """

    price: NotNegative = 1.0
    budget: NotNegative = 0.0
    both: Annotated[float, Meta(ge=0, le=1)] = 0.1
    gold: str = ""
    planted: Annotated[float, Meta(ge=0, le=0.25)] = 0.05
    least: NotNegative = 0.002


class MlflowSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The registry of MLflow to which versions, metrics and aliases are copied.

    `uri` is that of a tracking server or store ("": nothing is copied). `name` is that of the registered model
    (default: that of the home).
    """

    uri: str = ""
    name: str = ""


class PartitionSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Learners in several processes, for `everlearn run` on files.

    `count` learners each take their part of the rows, and their models are merged after each `every` rows of the
    stream, a multiple of `count`. `key` is the column whose values are dealt by a hash, so that the rows of one value
    are in one partition; "" is the `subject` of the loop, and without one rows are dealt in stretches of neighbours.
    """

    count: Annotated[int, Meta(ge=1, le=256)] = 1
    every: Positive = 8192
    key: str = ""


class Spec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """All settings of a loop.

    `model` is the spec of the model. Without one, or without its family, a new home has the automatic model (that of a
    bandit for the task "bandit"), and an existing home keeps the model it has. `mode` is "live" (every update serves at
    once, a guard rolls back) or "gated" (the champion stays as it is until the gate promotes). `warm_start` is a share
    (below 1) or a number of rows to train on offline first. `prompts` is a file of prompts to ask about (task
    "preference").
    Decisions fall only after each `tick` examples, checkpoints after each `checkpoint`; of old versions the `keep`
    newest keep their arrays, as many as have `keep_bytes` bytes (0: any number). At most `challengers` learn at a time.
    `subject` is the field that names the person whose data a record is. `ignore` lists names in files and requests that
    are left out on purpose. With `strict`, a file or a request with another unknown name, or without a field, is
    refused. `class_weight` multiplies weights in learning alone: a table of classes, or "balanced", which makes all
    classes weigh the same. `metric` is the headline metric of reports, pictures and pages; see
    `everlearn.metrics.choices`.
    """

    schema: Schema
    model: dict[str, Any] = {}
    source: str = ""
    prompts: str = ""
    home: str = ""
    mode: Literal["live", "gated"] = "live"
    seed: Annotated[int, Meta(ge=0, le=(1 << 62))] = 0
    warm_start: NotNegative = 0.0
    tick: Positive = 100
    checkpoint: Positive = 50_000
    keep: Positive = 50
    keep_bytes: Count = KEEP_BYTES
    challengers: Positive = 2
    subject: str = ""
    ignore: tuple[str, ...] = ()
    strict: bool = False
    class_weight: dict[str, Annotated[float, Meta(gt=0)]] | Literal["balanced"] = {}
    metric: str = "auto"
    gate: GateSpec = GateSpec()
    drift: DriftSpec = DriftSpec()
    replay: ReplaySpec = ReplaySpec()
    feedback: FeedbackSpec = FeedbackSpec()
    decision: DecisionSpec = DecisionSpec()
    bandit: BanditSpec = BanditSpec()
    log: LogSpec = LogSpec()
    limits: LimitsSpec = LimitsSpec()
    metrics: MetricsSpec = MetricsSpec()
    serve: ServeSpec = ServeSpec()
    judge: JudgeSpec = JudgeSpec()
    ask: AskSpec = AskSpec()
    mlflow: MlflowSpec = MlflowSpec()
    partitions: PartitionSpec = PartitionSpec()
