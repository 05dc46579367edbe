"""Pairs of answers with a known taste, a model of pairs of a few lines, and logs of judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from everlearn import config
from everlearn.model import row_slice
from everlearn.records import Arrays, Batch, Floats, Payload, Prediction, Preference, Reward, Singles
from everlearn.schema import pairs
from everlearn.schema.question import Arm, Asked, SampledAnswer, encode, pack_ids, pack_logp
from everlearn.spec import DriftSpec, GateSpec, Schema, Spec

VOCABULARY, STOP = 32, 2
KIND, RUDE = 7, 9  # tokens: the taste is kind, not rude
TOKENS = {"family": "tests.support.pairs:Tokens"}


class Tokens:
    """A logistic line on the numbers of each token in the first answer less those in the second (Bradley-Terry).

    A judgement moves it by one step of gradient descent. `seen` counts lessons; `names` is a table of annotators, first
    come, of the capacity that the schema gives.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        self.arrays: Arrays = {
            "line": np.zeros(int(self.spec["hashed"])),
            "seen": np.zeros(1),
            "names": np.zeros((int(self.spec["pairs"]["annotators"]), 2), np.float32),
        }

    def predict(self, batch: Batch) -> Singles:
        p = np.array([self._said(row_slice(batch, row, row + 1)) for row in range(len(batch))], np.float32)
        return np.stack([np.float32(1.0) - p, p], axis=1).reshape(-1, 2)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        scores = np.empty((len(y), 2), np.float32)
        for row in range(len(y)):
            one = row_slice(batch, row, row + 1)
            scores[row] = self.predict(one)[0]
            self.arrays["line"] += 0.3 * float(weight[row]) * (y[row] - self._said(one)) * self._difference(one)
            self.arrays["seen"] += 1.0
            who = one.dense[0, [pairs.WHO_LOW, pairs.WHO_HIGH]]
            names = self.arrays["names"]
            free = np.flatnonzero((names == who).all(1) | (names == 0.0).all(1))
            if len(free):
                names[free[0]] = who
        return scores

    def _said(self, one: Batch) -> float:
        return float(1.0 / (1.0 + np.exp(-self.arrays["line"] @ self._difference(one))))

    def _difference(self, one: Batch) -> Floats:
        prompt, first, second = (int(one.dense[0, column]) for column in (pairs.PROMPT, pairs.FIRST, pairs.SECOND))
        ids = one.indices[one.indptr[0] : one.indptr[1]]
        assert len(ids) == prompt + first + second, "a pair was cut"
        counted = [np.bincount(part, minlength=VOCABULARY) for part in np.split(ids[prompt:], [first])]
        return (counted[0] - counted[1]).astype(np.float64)


def schema(**changes: Any) -> Schema:
    limits: dict[str, Any] = {"prompt_tokens": 4, "answer_tokens": 6, "vocabulary": VOCABULARY, "annotators": 3}
    return Schema(**({"label": "chosen", "task": "preference", "fields": {"prompt": "text"}} | limits | changes))


def settings(**changes: Any) -> Spec:
    """A loop that learns pairs, and takes no decision but to start."""
    plain = {"schema": schema(), "model": TOKENS, "gate": GateSpec(minimum=1_000_000), "tick": 3}
    return Spec(**(plain | {"drift": DriftSpec(detector="none"), "checkpoint": 100_000} | changes))


def read(**changes: Any) -> Spec:
    """The settings of a loop of pairs as a file gives them."""
    fields = {"prompt": "text"}
    plain = {"label": "chosen", "task": "preference", "fields": fields, "vocabulary": VOCABULARY}
    return config.convert({"schema": plain, "model": TOKENS} | changes)


def answer(*ids: int, finish: Any = "stop", **more: Any) -> SampledAnswer:
    tokens = [*ids, STOP] if finish == "stop" else list(ids)
    logp = -np.arange(1, len(tokens) + 1) / 8
    return SampledAnswer(
        ids=pack_ids(tokens), logp=pack_logp(logp), finish=finish, text=" ".join(map(str, ids)), **more
    )


def question(*answers: SampledAnswer, arm: Arm = "random", prompt: tuple[int, ...] = (3, 4), **more: Any) -> Asked:
    pair = {} if arm == "chat" else {"pair": (0, 1)}
    return Asked(prompt=pack_ids(prompt), answers=answers, arm=arm, **(pair | more))


def drawn(number: int, arm: Arm = "random") -> Asked:
    """The question of this number; the same one whenever it is drawn."""
    draw = np.random.default_rng(number)
    lengths = draw.integers(1, 6, size=1 if arm == "chat" else 2)
    answers = [answer(*draw.integers(5, 11, size=length).tolist()) for length in lengths]
    return question(*answers, arm=arm, prompt=tuple(draw.integers(3, 6, size=3).tolist()))


def asking(id: str, number: int, arm: Arm = "random", subject: str = "") -> Prediction:
    """The event by which a question is recorded."""
    asked = drawn(number, arm)
    return Prediction(id, {"prompt": f"p{number}"}, "", (), "v", subject=subject, payload=encode(asked))


IDS = [f"{owner}-{number}" for owner in ("ann", "zoe") for number in range(5)]
SOURCES = st.sampled_from(["", "people/anna", "judge/strict@12", "bad"])
steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(IDS), st.integers(0, 50), st.sampled_from(pairs.ARMS)),
    st.tuples(st.just("judge"), st.sampled_from(IDS), st.sampled_from([-1, 0, 1]), SOURCES),
    st.tuples(st.just("judge"), st.sampled_from(IDS), st.sampled_from([0, 1]), SOURCES),
    st.tuples(st.sampled_from(["tie", "skip"]), st.sampled_from(IDS), st.just(-1), SOURCES),
    st.tuples(st.just("rate"), st.sampled_from(IDS), st.sampled_from([0.0, 0.25, 1.0, 7.0]), SOURCES),
)
stories = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5, 9.0]), steps), min_size=12, max_size=60)


def story(drawn: Sequence[tuple[float, Any]]) -> list[tuple[float, Payload]]:
    """A log of the drawn steps: each id is asked once, and the same judgement comes once."""
    events: list[tuple[float, Payload]] = []
    known: set[Any] = set()
    moment = 0.0
    for pause, step in drawn:
        moment += pause
        name = step[:2] if step[0] == "ask" else step
        if name in known:
            continue
        known.add(name)
        match step:
            case ("ask", id, number, arm):
                payload: Payload = asking(id, number, arm, id[:3])
            case ("rate", id, value, source):
                payload = Reward(id, value, 1.0, source)
            case (verdict, id, chosen, source):
                weight = 2.0 if source == "people/anna" else 1.0
                payload = Preference(id, chosen, weight, source, "choice" if verdict == "judge" else verdict)
        events.append((moment, payload))
    return events


def taste(asked: Asked) -> int:
    """The place of the answer with more kind and fewer rude tokens; the first of equal ones."""
    worth = [list(np.frombuffer(one.ids, "<i4")) for one in asked.answers]
    first, second = (ids.count(KIND) - ids.count(RUDE) for ids in worth)
    return int(second > first)
