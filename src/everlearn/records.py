"""What moves through the loop: frozen records, without behaviour.

Rows travel as arrays (`Batch`, `Examples`); everything that is kept in the log travels as a `Payload`
inside an `Event`. Both sides of every step of the loop are written here, on one screen or two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]
    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]
    Ints = NDArray[np.int64]

Scalar = bool | int | float | str
Task = Literal["binary", "multiclass", "regression"]


def __getattr__(name: str) -> Any:
    """Return one of the array types; numpy is loaded only then, so clients use the records without it."""
    kinds = {"Floats": "float64", "Singles": "float32", "Ints": "int64"}
    if name != "Arrays" and name not in kinds:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np
    from numpy.typing import NDArray

    return dict[str, NDArray[Any]] if name == "Arrays" else NDArray[getattr(np, kinds[name])]  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Batch:
    """n rows of encoded features; the first axis is always the row.

    `dense` is float32 (n, d), NaN marks a missing value. The hashed sparse part is CSR: row i owns
    `indices[indptr[i]:indptr[i+1]]` (int32, in [0, hashed)) and the same slice of `values` (float32).
    `indptr` (int64, n + 1) may start above 0, so that a slice of rows copies nothing.
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

    `y` is float64 (n,): the class index, or the number to predict. `weight` is float32 (n,).
    `position` is int64 (n,): where each row stands in its log or source, counted from 1.
    """

    batch: Batch
    y: Floats
    weight: Singles
    position: Ints


class Label(Struct, frozen=True, tag="label", tag_field="kind", omit_defaults=True):
    """The true answer to a prediction."""

    id: str
    value: Scalar
    weight: float = 1.0
    source: str = ""


class Reward(Struct, frozen=True, tag="reward", tag_field="kind", omit_defaults=True):
    """How good the answer given turned out to be; higher is better."""

    id: str
    value: float
    weight: float = 1.0
    source: str = ""


class Preference(Struct, frozen=True, tag="preference", tag_field="kind", omit_defaults=True):
    """Which of the answers offered was preferred, counted from 0."""

    id: str
    chosen: int
    weight: float = 1.0
    source: str = ""


Feedback = Label | Reward | Preference


class Prediction(Struct, frozen=True, tag="prediction", tag_field="kind", omit_defaults=True):
    """An answer as it was given, with what is needed to judge it fairly later.

    `proba` is in class order (empty for regression); `position` is the last event that the answering arrays had
    learned (0: not known); `propensity` is the probability with which this answer, arm or model was chosen;
    `canary` says that a candidate answered instead of the champion; `subject` whose data this is; `payload`
    belongs to the family.
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


class Example(Struct, frozen=True, tag="example", tag_field="kind", omit_defaults=True):
    """Features and their label in one event: predicted, then learned, at once."""

    id: str
    features: dict[str, Any]
    label: Scalar
    weight: float = 1.0
    source: str = ""
    subject: str = ""


class Evidence(Struct, frozen=True):
    """What a gate knows about one question, "is the candidate's loss lower than the reference's?".

    `difference` is the mean of (reference loss - candidate loss), so positive favours the candidate;
    `low`, `high` is its confidence sequence at level 1 - alpha, valid at every moment.
    `log_e_better` and `log_e_worse` are natural logs of the two e-values; `block` is the number of
    examples in a block and `blocks` how many blocks were compared; `threshold` is what a log e-value
    must reach.
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
    """What the gate says, and why, in a sentence that a person can read."""

    action: Literal["promote", "reject", "wait"]
    reason: str
    evidence: Evidence


class Version(Struct, frozen=True):
    """A model that was kept: where it came from, its snapshot's hash, and how good it was at birth."""

    id: str
    parents: tuple[str, ...]
    position: int
    blob: str
    spec: dict[str, Any]
    metrics: dict[str, float]
    reason: str


class Decision(Struct, frozen=True, tag="decision", tag_field="kind", omit_defaults=True):
    """Something that changed, was ordered, or was refused, for a reason; `at` is the position that it follows.

    `alias` moves from version `previous` to `version` where the action moves one (start, promote, rollback,
    challenger). `by` is "loop", "gate", "guard", "drift" or "user".
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
    """Everything the learner knows after position `at` is in `blob`."""

    at: int
    blob: str


class Rejected(Struct, frozen=True, tag="rejected", tag_field="kind"):
    """A row that could not be used, kept aside: which line of which source, why, what it held, and its position."""

    source: str
    line: int
    reason: str
    raw: str
    at: int = 0


class Erased(Struct, frozen=True, tag="erased", tag_field="kind"):
    """An event of the kind `was` stood at `position`; its subject asked for it to be forgotten."""

    position: int
    was: str


Payload = Prediction | Label | Reward | Preference | Example | Decision | Born | Checkpoint | Rejected | Erased


class Event(Struct, frozen=True):
    """One entry of the log: its position (from 1, ascending), seconds since 1970, and what happened."""

    position: int
    time: float
    payload: Payload
