"""A pair of answers as a row of a binary task; the label is 1 where the first answer is preferred, else 0.

The hashed part of a row holds the tokens: `indices` are prompt, first and second answer, one after the other, and
`values` the log-probabilities under the policy that answered (0 in the prompt). So rows of any length travel, wait and
are remembered without padding. The dense part says where the answers begin, and what else is known about them. Where
one answer is rated alone, the second one has no tokens, and the label is 1 where the answer is good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from everlearn.errors import InputError
from everlearn.model import stack
from everlearn.records import Batch, Example, Feedback, Label, Prediction, Preference, Reward, Singles, Target
from everlearn.schema import question
from everlearn.schema.layout import PAIR_COLUMNS, shape
from everlearn.schema.question import Arm, Asked
from everlearn.spec import Schema

PROMPT, FIRST, SECOND = 0, 1, 2  # numbers of tokens
CUT_FIRST, CUT_SECOND = 3, 4  # 1 where the limit cut the answer, which then has no stop token
REF_FIRST, REF_SECOND = 5, 6  # summed log-probabilities under the reference; NaN where unknown
SWAPPED = 7  # 1 where the first answer was shown on the right
ARM = 8  # index in ARMS, or UNASKED
WHO_LOW, WHO_HIGH = 9, 10  # two halves, 24 bits each, of a digest of the whole source; 0 until judged
KIND = 11  # digest of what a bias belongs to: "people" for all people, else the whole source; 0 until judged
GROUP = 12  # digest of the group; 0 for none
TRUSTED = 13  # 1 for judgements of people, and for pairs with a known answer
SECONDS = 14  # from shown to judged; 0 until judged, and where unknown
BEFORE = 15  # of a pair that is asked again: 1 where its annotator preferred the first answer before, 2 the second

ARMS: tuple[Arm, ...] = get_args(Arm)
SCORED = frozenset(map(ARMS.index, ("random", "duel", "file")))  # arms that models are scored on
UNASKED = len(ARMS)  # a pair that nothing chose to ask about: an edit, a retry, a choice among the answers of a chat
IMPLICIT = "implicit/"  # a selector that begins so names what a user did
DUEL = ARMS.index("duel")
PEOPLE = "people"
COUNTED = frozenset({PEOPLE, "function"})  # first parts of the sources whose judgements decide duels

_HALF = 1 << 24  # float32 holds whole numbers up to here


def width(schema: Schema) -> int:
    """Return the most tokens that a row can have: a prompt and two answers.

    >>> width(Schema(label="chosen", task="preference", fields={"prompt": "text"}, vocabulary=50))
    1024
    """
    return schema.prompt_tokens + 2 * schema.answer_tokens


def number(name: str) -> float:
    """Return the number, from 1 to 2**24 - 1, by which a row holds the name of a kind or group; 0 for no name."""
    return float(_digest(name) % (_HALF - 1) + 1) if name else 0.0


def who(source: str) -> tuple[float, float]:
    """Return the two numbers, from 1 to 2**24 - 1, by which a row holds a whole source; both 0 for no source."""
    high, low = divmod(_digest(source), 1 << 32)
    return (float(low % (_HALF - 1) + 1), float(high % (_HALF - 1) + 1)) if source else (0.0, 0.0)


def kind(source: str) -> str:
    """Return what the bias of a source belongs to: "people" for all people, else the whole source."""
    return PEOPLE if f"{source}/".startswith(f"{PEOPLE}/") else source


class Duel(NamedTuple):
    """A judged duel: the uids of the contestants that gave the first and the second answer, and the win of the first.

    `win` is 1 or 0, or 1/2 for a tie. `longer` is the difference of the logarithms of the answers' lengths, first minus
    second, and `weight` that of the judgement.
    """

    first: int
    second: int
    win: float
    longer: float
    weight: float


def is_duel(row: Batch) -> bool:
    """Return True for one row whose answers come from two contestants."""
    return int(row.dense[0, ARM]) == DUEL


def duel(payload: Mapping[str, Any], row: Batch, targets: Sequence[Target], source: str, weight: float) -> Duel | None:
    """Return a judgement as a duel between contestants; None for one that only teaches.

    `payload` is that of the prediction, `row` its row, and `targets` are the lessons. Judges, implicit signals, sources
    without a name and answers without a uid decide no duel.
    """
    if not is_duel(row) or source.partition("/")[0] not in COUNTED:
        return None
    uids = [one.uid for one in question.judged(question.decode(payload))]
    if len(uids) != 2 or not all(uids) or uids[0] == uids[1]:
        return None
    total = sum(target.share for target in targets)
    win = sum(target.share * target.y for target in targets) / total
    first, second = np.log1p(row.dense[0, [FIRST, SECOND]].astype(np.float64)).tolist()
    return Duel(uids[0], uids[1], float(win), first - second, weight)


class PairReading:
    """The reading of predictions that ask for a preference, and of judgements on them.

    >>> from everlearn.schema.question import SampledAnswer, pack_ids, pack_logp
    >>> reading = PairReading(Schema(label="chosen", task="preference", fields={"prompt": "text"}, vocabulary=9))
    >>> logp = pack_logp([-1.0, 0.0])
    >>> two = tuple(SampledAnswer(ids=pack_ids([token, 2]), logp=logp, finish="stop") for token in (7, 8))
    >>> row = reading.row(Asked(prompt=pack_ids([5]), answers=two, pair=(0, 1), arm="random"))
    >>> row.indices.tolist(), row.dense[0, [PROMPT, FIRST, SECOND]].tolist()
    ([5, 7, 2, 8, 2], [1.0, 2.0, 2.0])
    >>> reading.judge(Preference("id", -1, verdict="tie"))
    (Target(y=1.0, share=0.5), Target(y=0.0, share=0.5))
    """

    late = True

    def __init__(self, schema: Schema) -> None:
        self.shape: dict[str, Any] = shape(schema)
        self.schema = schema

    def read(self, predictions: Sequence[Prediction]) -> Batch:
        """Return the pairs that n predictions ask about. Raises `InputError`, with the row, for one that is no pair."""
        rows: list[Batch] = []
        for prediction in predictions:
            try:
                rows.append(self.row(question.decode(prediction.payload)))
            except InputError as error:
                raise InputError(f"row {len(rows)}: {error}") from error
        return stack(rows, PAIR_COLUMNS)

    def sift(self, events: Sequence[Prediction | Example]) -> tuple[Batch, set[int]]:
        """Return n rows, and the places of those that cannot be used, which are empty; no example is a pair."""
        rows: list[Batch] = []
        bad: set[int] = set()
        for place, event in enumerate(events):
            try:
                rows.append(self.read([event] if isinstance(event, Prediction) else [_no_pair(event)]))
            except InputError:
                rows.append(_empty())
                bad.add(place)
        return stack(rows, PAIR_COLUMNS), bad

    def row(self, pair: Asked) -> Batch:
        """Return one pair as a row. Raises `InputError` for tokens beyond the limits of the schema: none is cut."""
        answers = question.judged(pair)
        prompt, *tokens = (question.unpack_ids(data) for data in (pair.prompt, *(one.ids for one in answers)))
        self._check(prompt, "the prompt", "schema.prompt_tokens", self.schema.prompt_tokens)
        for name, ids in zip(("the first answer", "the second answer"), tokens, strict=False):
            self._check(ids, name, "schema.answer_tokens", self.schema.answer_tokens)
        dense = np.zeros((1, PAIR_COLUMNS), np.float32)
        dense[0, [REF_FIRST, REF_SECOND]] = np.nan
        arm = UNASKED if pair.selector.startswith(IMPLICIT) else ARMS.index(pair.arm)
        dense[0, PROMPT], dense[0, SWAPPED], dense[0, ARM] = len(prompt), pair.swapped, arm
        dense[0, GROUP], dense[0, TRUSTED] = number(pair.group), pair.arm == "gold"
        dense[0, BEFORE] = pair.before + 1
        for place, (one, ids) in enumerate(zip(answers, tokens, strict=True)):
            dense[0, FIRST + place], dense[0, CUT_FIRST + place] = len(ids), one.finish == "length"
        for place, logp in enumerate(pair.reference_logp):
            dense[0, REF_FIRST + place] = logp
        indices = np.concatenate([prompt, *tokens])
        values = [np.zeros(len(prompt), np.float32), *(question.unpack_logp(one.logp) for one in answers)]
        return Batch(dense, np.array([0, len(indices)], np.int64), indices, np.concatenate(values))

    def judge(self, feedback: Feedback) -> tuple[Target, ...]:
        """Return the lessons of a judgement: none for a skip, two of half weight for a tie.

        "None of them" is a tie. A reward from 0 to 1 says how far the first answer is preferred, or how good a single
        one is: two lessons share the weight. Raises `InputError` for feedback that judges no pair.
        """
        match feedback:
            case Preference(verdict="skip"):
                return ()
            case Preference(verdict="tie") | Preference(chosen=-1):
                return Target(1.0, 0.5), Target(0.0, 0.5)
            case Preference(chosen=0 | 1 as chosen):
                return (Target(1.0 - chosen, 1.0),)
            case Preference(chosen=chosen):
                raise InputError(
                    f"chosen: got {chosen} for {feedback.id!r}; expected 0 or 1, the place of the preferred answer in "
                    "the pair, or -1 for none of them"
                )
            case Reward(value=value) if 0.0 <= value <= 1.0:
                shares = Target(1.0, float(value)), Target(0.0, 1.0 - float(value))
                return tuple(one for one in shares if one.share > 0.0)
            case Reward(value=value):
                raise InputError(
                    f"reward: got {value} for {feedback.id!r}; expected 0 (bad) to 1 (good). Send n stars of 5 as "
                    "(n - 1) / 4"
                )
            case Label():
                raise InputError(
                    f"got a label for prediction {feedback.id!r}, but this loop learns preferences: send `chosen`, the "
                    "place of the preferred answer, or a `verdict`"
                )

    def mark(self, row: Batch, feedback: Feedback) -> Batch:
        """Return a copy of a row that says where its judgement came from."""
        dense = row.dense.copy()
        source = kind(feedback.source)
        dense[0, [WHO_LOW, WHO_HIGH]] = who(feedback.source)
        dense[0, KIND] = number(source)
        dense[0, TRUSTED] = source == PEOPLE or dense[0, ARM] == ARMS.index("gold")
        dense[0, SECONDS] = feedback.seconds if isinstance(feedback, Preference) else 0.0
        return Batch(dense, row.indptr, row.indices, row.values)

    def scores(self, row: Batch) -> bool:
        """Return True for a row of an arm on which models are scored."""
        return int(row.dense[0, ARM]) in SCORED

    def _check(self, ids: Any, what: str, setting: str, limit: int) -> None:
        if len(ids) > limit:
            raise InputError(
                f"{what} has {len(ids)} tokens; expected at most {limit} ({setting}). Ask for shorter texts: a pair is "
                "never cut"
            )
        if len(ids) and ids.max() >= self.schema.vocabulary:
            raise InputError(
                f"{what} has the token {ids.max()}; expected ids below {self.schema.vocabulary} (schema.vocabulary). "
                "Check the tokenizer"
            )


def _no_pair(event: Example) -> Prediction:
    raise InputError(f"the example {event.id!r} is no pair of answers")


def _empty() -> Batch:
    nothing: Singles = np.zeros(0, np.float32)
    return Batch(np.zeros((1, PAIR_COLUMNS), np.float32), np.zeros(2, np.int64), np.zeros(0, np.int32), nothing)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
