"""The whole product in SlotWorld: questions, judgements, reward model and transformer policy of `PreferenceModel`.

Everything is the product's code with its defaults, but for three settings: no leash (`improve.beta` 0), because there
is no fluency to lose, a KL budget of 10 nats, and answers computed 256 at a time. 32 labels make a round, in which each
prompt is asked twice. Groups are prompts. Measures are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slotworld as sw
from everlearn.families.preference import annotators, asking, settings
from everlearn.families.preference.model import PreferenceModel
from everlearn.families.preference.policy import Policy
from everlearn.model import stack
from everlearn.records import Preference
from everlearn.schema import question
from everlearn.schema.layout import PAIR_COLUMNS
from everlearn.schema.pairs import PairReading
from everlearn.spec import Schema

Array = NDArray[Any]
Judge = Callable[[int, Array, Array, Array, np.random.Generator], tuple[Array, Sequence[str]]]
"""Judges a round: from its first label, prompts, both answers and random numbers to labels and their sources."""

ROUND = 32
RATES = np.array([0.95, 0.90, 0.85, 0.50, 0.10])  # reliabilities of five annotators
PADDING = np.isin(sw.WORDS_OF, (12, 13, 14, 15)).sum(1).astype(np.float64)  # four words in every slot are padding
READING = PairReading(
    Schema(
        label="chosen",
        task="preference",
        fields={"prompt": "text"},
        vocabulary=sw.PROMPTS + sw.WORDS,
        prompt_tokens=1,
        answer_tokens=sw.SLOTS,
        groups=sw.PROMPTS + 1,
    )
)


class Spelling:
    """A tokenizer that only writes: padding words are markup, so that their number is the format of an answer."""

    chat_template = eos_token_id = None

    def get_vocab(self) -> dict[str, int]:
        """Return the tokens by name."""
        return {str(token): token for token in range(sw.PROMPTS + sw.WORDS)}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """Return an answer: a star for a padding word, else a letter."""
        return "".join("*" if one >= sw.PROMPTS + 12 else "a" for one in ids)


def model(seed: int, tokenizer: Any = None, **changes: Any) -> PreferenceModel:
    """Return an untrained preference model around a copy of the world's reference."""
    improve = {"beta": 0.0, "budget": 10.0, "rows": 256, **changes.pop("improve", {})}
    spec = {"family": "preference", **READING.shape, "model": "slot:world", "weights": "all", "seed": seed}
    chosen = settings.read({**spec, "improve": improve, **changes})
    policy = Policy(deepcopy(sw.world(seed).model), optimizer=chosen.optimizer, seed=seed)
    return PreferenceModel(chosen, policy, tokenizer)


def learned(
    seed: int, labels: int, judge: Judge, see: Callable[[int, PreferenceModel, Array], None], **changes: Any
) -> None:
    """Ask, judge and learn `labels` pairs; `see` gets the labels so far, the model and the table of its policy."""
    learner, random = model(seed, **changes), np.random.default_rng([seed, 1])
    for begin in range(0, labels, ROUND):
        prompts = random.permutation(np.repeat(np.arange(sw.PROMPTS), ROUND // sw.PROMPTS))
        asked = [
            asking.ask(learner, [prompt], (seed, begin + place), group=f"prompt {prompt}")
            for place, prompt in enumerate(prompts.tolist())
        ]
        first, second = np.array([[_number(one.ids) for one in question.judged(pair)] for pair in asked]).T
        label, sources = judge(begin, prompts, first, second, random)
        rows = [
            READING.mark(READING.row(pair), Preference("", int(1 - better), source=source))
            for pair, better, source in zip(asked, label.tolist(), sources, strict=True)
        ]
        learner.learn(stack(rows, PAIR_COLUMNS), label, np.ones(ROUND, np.float32))
        see(begin + ROUND, learner, sw.log_table(learner.policy.module))


def _number(ids: bytes) -> int:
    return int(np.ravel_multi_index(tuple(question.unpack_ids(ids) - sw.PROMPTS), (sw.WORDS,) * sw.SLOTS))


# ---- runs ----------------------------------------------------------------------------------------------------------


def plain(seed: int, labels: int, flips: float = 0.0, **changes: Any) -> dict[int, dict[str, float]]:
    """Learn from one annotator, who flips some labels; return measures of the policy at powers of two from 128."""
    one, found = sw.world(seed), dict[int, dict[str, float]]()

    def judge(_: int, prompts: Array, first: Array, second: Array, random: np.random.Generator) -> Any:
        label = sw.labelled(one.gold, prompts, first, second, random)
        return np.abs(label - (random.random(ROUND) < flips)), ["people/anna"] * ROUND

    def see(count: int, learner: PreferenceModel, table: Array) -> None:
        if count >= 128 and count & (count - 1) == 0:
            found[count] = sw.measures(table, one)

    learned(seed, labels, judge, see, **changes)
    return found


def five(seed: int, labels: int = 2048) -> dict[Any, Any]:
    """Learn from five annotators; return the win at powers of two, and when the inverted one was named."""
    one, found = sw.world(seed), dict[Any, Any]({"named": labels + 1})

    def judge(_: int, prompts: Array, first: Array, second: Array, random: np.random.Generator) -> Any:
        who = random.integers(len(RATES), size=ROUND)
        label = sw.labelled(one.gold, prompts, first, second, random)
        label = np.abs(label - (random.random(ROUND) > RATES[who]))
        return label, [f"people/{number}" for number in who]

    def see(count: int, learner: PreferenceModel, table: Array) -> None:
        names = annotators.named(learner.part("annotators"))
        if (names == annotators.INVERTED).any():
            found["named"] = min(found["named"], count)
        if count >= 512 and count & (count - 1) == 0:
            found[count] = sw.win(table, one)

    learned(seed, labels, judge, see)
    return found


def padded(seed: int, labels: int = 1024) -> dict[Any, float]:
    """Learn from people (1 in 8), who dislike padding, and a judge who loves it; return the people's win.

    Answers have one length, so the judge's taste is one of format (`Spelling`).
    """
    one, found = sw.world(seed), dict[Any, float]({"lowest": 1.0})
    gold = sw.standardized(one.gold - PADDING)

    def judge(_: int, prompts: Array, first: Array, second: Array, random: np.random.Generator) -> Any:
        people = np.arange(ROUND) % 8 == 0
        label = sw.labelled(gold, prompts, first, second, random)
        other = sw.labelled(gold + 3.0 * PADDING, prompts, first, second, random)
        return np.where(people, label, other), ["people/anna" if each else "judge/star" for each in people]

    def see(count: int, learner: PreferenceModel, table: Array) -> None:
        win = sw.win(table, one, gold)
        found["lowest"] = min(found["lowest"], win)
        if count >= 128 and count & (count - 1) == 0:
            found[count] = win

    learned(seed, labels, judge, see, tokenizer=Spelling())
    return found


def negated(seed: int, labels: int = 2048) -> dict[Any, float]:
    """Negate the gold of half of the prompts after half of the labels; return wins of both halves."""
    one, found = sw.world(seed), dict[Any, float]({"delay": np.inf, "early": 0.0})
    drifted = np.random.default_rng([seed, 2]).permutation(sw.PROMPTS)[: sw.PROMPTS // 2]
    turned = one.gold.copy()
    turned[drifted] *= -1

    def judge(begin: int, prompts: Array, first: Array, second: Array, random: np.random.Generator) -> Any:
        gold = turned if begin >= labels // 2 else one.gold
        return sw.labelled(gold, prompts, first, second, random), ["people/anna"] * ROUND

    def see(count: int, learner: PreferenceModel, table: Array) -> None:
        past = count - labels // 2
        alarmed = bool(learner.drifted())
        if past <= 0:
            found["before"], found["early"] = sw.win(table, one), float(alarmed)
        elif any(last > labels // 2 for last in learner.drifted().values()):
            found["delay"] = min(found["delay"], float(past))
        if past in (256, 512, 1024):
            wins = sw.wins(table, one, turned)
            found[past], found["stable"] = float(wins[drifted].mean()), float(np.delete(wins, drifted).mean())

    learned(seed, labels, judge, see)
    return found
