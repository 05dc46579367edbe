"""The messages of the label page and of feedback on chats: bodies of requests and replies, as in `client.records`.

    GET  /label/next?annotator=NAME    LabelPair
    GET  /label/answers?id=ID          VersionAnswers
    POST /label/judge                  JudgeRequest -> JudgeReply
    POST /label/undo                   UndoRequest -> UndoReply
    POST /v1/feedback                  ChatFeedback -> ChatFeedbackReply

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
