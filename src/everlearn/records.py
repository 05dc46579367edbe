"""The records that move through the loop: frozen, without behaviour.

Rows travel as arrays (`Batch`, `Examples`); everything stored in the log travels as a `Payload` inside an `Event`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]
    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]
    Ints = NDArray[np.int64]

Scalar = bool | int | float | str
RowTask = Literal["binary", "multiclass", "regression"]  # of models; a pair is a binary row, a reward a number
Task = Literal[RowTask, "preference", "bandit"]
Outcome = Literal["choice", "tie", "skip"]
LossKind = Literal["brier", "error", "log_loss", "absolute", "squared", "pinball", "huber"]


def __getattr__(name: str) -> Any:
    """Return one of the array types; numpy is loaded only then, so clients use the records without it."""
    kinds = {"Floats": "float64", "Singles": "float32", "Ints": "int64"}
    if name != "Arrays" and name not in kinds:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np
    from numpy.typing import NDArray

    return dict[str, NDArray[Any]] if name == "Arrays" else NDArray[getattr(np, kinds[name])]  # type: ignore[misc]


class Loss(NamedTuple):
    """A loss that models are compared by, or trained for: its name, and its parameter.

    The parameter is the quantile of "pinball", the delta of "huber", and the lowest probability that "log_loss" counts
    (0: 1e-15). The others have 0.
    """

    kind: LossKind
    parameter: float = 0.0


class Target(NamedTuple):
    """One lesson of a judgement: the number to learn, and its share, at most 1, of the judgement's weight."""

    y: float
    share: float


@dataclass(frozen=True, slots=True)
class Batch:
    """n rows of encoded features; the first axis is always the row.

    `dense` is float32 (n, d); NaN marks a missing value. The hashed sparse part is CSR: row i has the entries
    `indices[indptr[i]:indptr[i+1]]` (int32, in [0, hashed)) and the same slice of `values` (float32). `indptr` (int64,
    n + 1) may start above 0, so that a slice of rows copies nothing.
    """

    dense: Singles
    indptr: Ints
    indices: NDArray[np.int32]
    values: Singles

    def __len__(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True, slots=True)
class Examples:
    """n labelled rows in stream order.

    `y` is float64 (n,): the class index, or the number to predict. `weight` is float32 (n,). `position` is int64 (n,):
    the position of each row in its log or source, counted from 1. `segment`, bytes (n,), is the value of the field by
    which metrics are split, cut to the width of the names; None where they are not split.
    """

    batch: Batch
    y: Floats
    weight: Singles
    position: Ints
    segment: NDArray[np.bytes_] | None = None


class Label(Struct, frozen=True, gc=False, tag="label", tag_field="kind", omit_defaults=True):
    """The true answer to a prediction.

    `handle` names the key of the subject on its way to a log that encrypts (see `everlearn.scale.encrypted`).
    """

    id: str
    value: Scalar
    weight: float = 1.0
    source: str = ""
    handle: str = ""


class Reward(Struct, frozen=True, gc=False, tag="reward", tag_field="kind", omit_defaults=True):
    """The reward of a prediction; higher is better. `handle` is that of `Label`."""

    id: str
    value: float
    weight: float = 1.0
    source: str = ""
    handle: str = ""


class Preference(Struct, frozen=True, gc=False, tag="preference", tag_field="kind", omit_defaults=True):
    """The judgement of a pair of answers: the place of the preferred one in the pair, 0 or 1; -1: none of them.

    A `verdict` of "tie" or "skip" has `chosen` -1. `source` is "people/NAME", "judge/NAME@DIGEST", "implicit/edit",
    "function" or the like. `seconds` is the time from shown to judged, and `why` a rationale; neither is learned.
    `handle` is that of `Label`.
    """

    id: str
    chosen: int
    weight: float = 1.0
    source: str = ""
    verdict: Outcome = "choice"
    seconds: float = 0.0
    why: str = ""
    handle: str = ""


Feedback = Label | Reward | Preference


class Prediction(Struct, frozen=True, gc=False, tag="prediction", tag_field="kind", omit_defaults=True):
    """A prediction as it was served, with the data needed to evaluate it without bias later.

    `proba` is in class order (empty for regression). `position` is the last event that the predicting arrays had
    learned (0: unknown). `propensity` is the probability with which this answer, arm or model was chosen. `canary`
    marks a prediction by a candidate instead of the champion. `subject` identifies the person or thing that the data
    are about. `payload` belongs to the family. `trace` holds the trace of the model that answered (see
    `everlearn.model.TracedModel`), little-endian float32; the log writes it as base64, and leaves it out where the
    model has none.
    """

    id: str
    features: dict[str, Any]
    value: Scalar
    proba: tuple[float, ...]
    version: str
    position: int = 0
    propensity: float = 1.0
    canary: bool = False
    subject: str = ""
    payload: dict[str, Any] = {}
    trace: bytes = b""


class Example(Struct, frozen=True, gc=False, tag="example", tag_field="kind", omit_defaults=True):
    """Features and their label in one event, predicted and then learned at once."""

    id: str
    features: dict[str, Any]
    label: Scalar
    weight: float = 1.0
    source: str = ""
    subject: str = ""


class Evidence(Struct, frozen=True):
    """The evidence on one question, "is the candidate's loss lower than the reference's?".

    `difference` is the mean of (reference loss - candidate loss), so positive favours the candidate; `low`, `high` is
    its confidence sequence at level 1 - alpha, valid at every moment. `log_e_better` and `log_e_worse` are natural logs
    of the two e-values; `block` is the number of examples in a block and `blocks` the number of blocks compared;
    `threshold` is the log e-value needed for a verdict.
    """

    examples: int
    block: int
    blocks: int
    difference: float
    low: float
    high: float
    log_e_better: float
    log_e_worse: float
    threshold: float


class Verdict(Struct, frozen=True):
    """The verdict of the gate, its reason as a sentence, and the evidence."""

    action: Literal["promote", "reject", "wait"]
    reason: str
    evidence: Evidence


class Version(Struct, frozen=True):
    """A stored model: its parents, the hash of its snapshot, and its metrics at birth."""

    id: str
    parents: tuple[str, ...]
    position: int
    blob: str
    spec: dict[str, Any]
    metrics: dict[str, float]
    reason: str


class Decision(Struct, frozen=True, tag="decision", tag_field="kind", omit_defaults=True):
    """A change, an order or a rejection, with its reason; `at` is the log position that it follows.

    `alias` moves from version `previous` to `version` where the action moves one (start, promote, rollback,
    challenger). `by` is "loop", "gate", "guard", "drift" or "user". `detail` depends on the action: see
    `everlearn.loop.details`, which reads and writes it.
    """

    action: Literal[
        "start", "promote", "reject", "rollback", "drift", "challenger", "withdraw", "erase", "config", "order"
    ]
    at: int
    reason: str
    by: str
    alias: str = ""
    version: str = ""
    previous: str = ""
    evidence: Evidence | None = None
    detail: dict[str, Any] = {}


class Born(Struct, frozen=True, tag="version", tag_field="kind"):
    """A version was stored."""

    version: Version


class Checkpoint(Struct, frozen=True, tag="checkpoint", tag_field="kind"):
    """The state of the learner after position `at`, stored in `blob`."""

    at: int
    blob: str


class Rejected(Struct, frozen=True, tag="rejected", tag_field="kind"):
    """A row that could not be used: its source and line, the reason, its raw content, and its position."""

    source: str
    line: int
    reason: str
    raw: str
    at: int = 0


class Erased(Struct, frozen=True, tag="erased", tag_field="kind"):
    """The tombstone of an event of the kind `was` at `position`, erased on request of its subject."""

    position: int
    was: str


class Encrypted(Struct, frozen=True, gc=False, tag="encrypted", tag_field="kind"):
    """An event of the kind `was`: `data` is its payload, encrypted with the key that `handle` names.

    Only the log that encrypts sees it: see `everlearn.scale.encrypted`.
    """

    was: str
    handle: str
    data: bytes


Payload = (
    Prediction | Label | Reward | Preference | Example | Decision | Born | Checkpoint | Rejected | Erased | Encrypted
)


class Event(Struct, frozen=True, gc=False):
    """One entry of the log: its position (from 1, ascending), seconds since 1970, and its payload."""

    position: int
    time: float
    payload: Payload
