"""The messages of the label page and of feedback on chats: bodies of requests and replies, as in `client.records`.

    GET  /label/next?annotator=NAME    LabelPair
    GET  /label/answers?id=ID          VersionAnswers
    POST /label/judge                  JudgeRequest -> JudgeReply
    POST /label/undo                   UndoRequest -> UndoReply
    POST /v1/feedback                  ChatFeedback -> ChatFeedbackReply
    GET  /v1/preferences               AskingStatus

An annotator has a name; judgements are logged with the source "people/NAME".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

AnnotatorName = Annotated[
    str,
    Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["anna"]),
]
Side = Literal["left", "right", "tie", "skip"]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
SourceName = Annotated[str, Meta(max_length=100)]


class LabelProgress(Struct, frozen=True):
    """The work of one annotator, from the log: `judged` choices and ties, and `skipped` pairs.

    `agreement` is the share of `compared` choices in which the reward model, before it learned them, preferred the same
    answer; null before the first one. `minute` counts the judgements of the last 60 seconds. `with_others` is the share
    of `shared` choices in which another annotator, judging the same pair, preferred the same answer.
    """

    annotator: str
    judged: int
    skipped: int
    minute: int
    compared: int
    agreement: float | None
    shared: int = 0
    with_others: float | None = None


class PairTrees(Struct, frozen=True):
    """The sanitised HTML of a pair as lists of nodes, which a page builds without reading any markup.

    A text is a string; an element is [name, attributes, children], of `rendering.TAGS` and `rendering.ATTRIBUTES` only.
    """

    prompt: list[Any]
    left: list[Any]
    right: list[Any]


class VersionAnswers(Struct, frozen=True):
    """One prompt, answered with the same random numbers by the `first` version of the policy and by the present one.

    Both are lists of nodes, as in `PairTrees`; `version` is the present version. They are not in the log.
    """

    id: str
    first: list[Any]
    present: list[Any]
    version: str


class LabelPair(Struct, frozen=True):
    """A pair for an annotator to judge.

    `prompt`, `left` and `right` are sanitised HTML, and `trees` the same as nodes. `swapped` is true where the first
    answer of the pair stands on the right. `why` is one sentence; `arm` is "random" or "active", `value` the
    information that a judgement was expected to give, in nats. `version` is that of the policy, `total` the judgements
    of all annotators. `again` is true for a pair that this annotator has judged: another judgement corrects the first
    one.
    """

    id: str
    prompt: str
    left: str
    right: str
    swapped: bool
    why: str
    arm: str
    value: float
    version: str
    progress: LabelProgress
    total: int
    trees: PairTrees
    again: bool = False


class JudgeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The verdict of an annotator on a pair; `seconds` is the time from shown to judged, `why` a rationale."""

    id: Id
    annotator: AnnotatorName
    verdict: Side
    seconds: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    why: Annotated[str, Meta(max_length=4000)] = ""


class JudgeReply(Struct, frozen=True):
    """The verdict is in the log; `agreed` is true if the reward model preferred the same answer, null without one."""

    id: str
    agreed: bool | None
    progress: LabelProgress
    total: int


class UndoRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What an annotator takes back: the "last" judgement, or "everything"."""

    annotator: AnnotatorName
    what: Literal["last", "everything"] = "last"


class UndoReply(Struct, frozen=True):
    """The `pair` of the last judgement, to be judged again; or the position of the command that undoes everything.

    Exactly one of the two is not null. The learner carries the command out when it reads it: learning starts again from
    the last champion that had learned none of these judgements.
    """

    pair: LabelPair | None
    position: int | None
    progress: LabelProgress


class ChatFeedback(Struct, frozen=True, forbid_unknown_fields=True):
    """What a user did with the answer `index` of the chat reply `id`; at least one signal.

    `up` is a thumb, `reward` a rating from 0 (bad) to 1 (good). `chosen`: this answer was preferred to all others of
    the reply. `accepted`: it was used as it is. `edit` is the text that the user made of it. `retried` are the ids of
    replies to the same messages that the user had passed over. `source` names the signal where "implicit/..." does not.
    """

    id: Id
    index: Annotated[int, Meta(ge=0, le=15)] = 0
    up: bool | None = None
    reward: Annotated[float, Meta(ge=0, le=1)] | None = None
    chosen: bool = False
    accepted: bool = False
    edit: Annotated[str, Meta(max_length=100_000)] | None = None
    retried: Annotated[tuple[Id, ...], Meta(max_length=16)] = ()
    source: SourceName = ""


class ChatFeedbackReply(Struct, frozen=True):
    """The number of judgements that were taken, `known` of which were in the log already."""

    accepted: int
    known: int


class JudgeStatus(Struct, frozen=True):
    """The judge that the server asks: the source of its verdicts, pairs that it judges now, and why it gives none."""

    source: str
    busy: int
    trouble: str


class SourceSpending(Struct, frozen=True):
    """What "people" or the "judge" cost, in the unit of their prices: in all, and in this `hour`.

    `left` is how many labels the budget still allows in this hour; null without a budget. `win_per_unit` is the part of
    the present win in duels above one half that belongs to this source by its labels, for each unit spent.
    """

    kind: str
    price: float
    budget: float
    spent: float
    hour: float
    labels: int
    left: int | None
    win_per_unit: float | None


class JudgeAgreement(Struct, frozen=True):
    """The `share` of `pairs` in which a judge and a person gave the same verdict (a tie is one).

    `low` and `high` are a confidence sequence, which may be looked at after each pair; `kappa` is Cohen's.
    """

    source: str
    pairs: int
    share: float
    low: float
    high: float
    kappa: float | None


class AnnotatorReport(Struct, frozen=True):
    """A source of judgements as the reward model sees it; `named` is "random", "inverted" or "".

    `consistency` is the share of repeated pairs that it judged as before, `gold` the share of gold questions with the
    known answer, `hasty` that of judgements within a second; null where unknown. `source` is "" for one that the log
    names no longer.
    """

    source: str
    digest: int
    judged: int
    reliability: float
    named: str
    seconds: float | None
    hasty: float | None
    consistency: float | None
    gold: float | None


class AskingStatus(Struct, frozen=True):
    """The state of asking: the `state`, and the `reason` why people get no pair.

    `selector` chooses pairs now, `configured` is that of the settings: they differ while chosen pairs do not pay.
    `information` is what the newest random questions promised, in nats; asking stops below `least`. `skipped_prompts`
    of the `prompts` in the file are too long.
    """

    state: Literal["asking", "stopped"]
    reason: str
    selector: str
    configured: str
    information: float | None
    least: float
    prompts: int
    skipped_prompts: int
    ready: int
    judge: JudgeStatus | None
    sources: list[SourceSpending]
    agreement: list[JudgeAgreement]
    annotators: list[AnnotatorReport]
