"""Preference learning with exact truth: every row is a figure of SlotWorld or of the linear world.

    python bench/preference.py [--seeds 3] [--quick] [--only NAME ...]

The rows "transformer", "selector", "flips" and "mixed" run the whole product (`slotpolicy`). The others need no trained
policy: it is the exact one, ref * exp(reward / b), or there is none. 32 labels make a round; each prompt is asked
twice in it. `--quick` runs one seed, and the transformer rows with half of the labels. "lin" has well-specified
features, "hid" frozen hidden states of the reference.
Wins are strict win-rates against the reference, ties half; each figure is the mean over seeds with the standard
deviation between seeds. A figure that misses its bound is marked and listed at the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import slotpolicy
import slotworld as sw
from everlearn.families.preference import annotators, choose, groups, reward

ROUND, CANDIDATES = 32, 16
B = 0.12  # temperature of the exact policy that answers
Array = NDArray[Any]
MISSED: list[str] = []


def row(name: str, values: Any, at_least: float | None = None, at_most: float | None = None) -> None:
    """Print a figure over seeds, and whether it is within its bounds."""
    values = np.asarray(values, np.float64)
    mean, spread = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    bad = (at_least is not None and mean < at_least) or (at_most is not None and mean > at_most)
    bound = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}" if at_most is not None else ""
    shown = " ".join(f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}" for value in values)
    line = f"  {name:62} {mean:8.3f} +- {spread:.3f}  ({shown})  {bound}{'  MISSED' if bad else ''}"
    print(line, flush=True)
    if bad:
        MISSED.append(line.strip())


class Learner(NamedTuple):
    """A head on some features in one world, the exact policy that answers, and the random numbers of the run."""

    one: sw.World
    features: sw.Features
    head: reward.Arrays
    random: np.random.Generator

    def pairs(self, policy: Array, prompts: Array, selector: str, key: tuple[int, ...], mixed: float = 0.0) -> Any:
        """Return two different answers for each prompt; `mixed` is the share of candidates from the reference."""
        m = CANDIDATES
        flat = np.repeat(prompts, m)
        answers = sw.sampled(policy, flat, self.random)
        from_reference = self.random.random(len(flat)) < mixed
        from_reference[m - 1 :: m] = True  # so that a policy with one answer left is still compared with something
        answers = np.where(from_reference, sw.sampled(self.one.reference, flat, self.random), answers).reshape(-1, m)
        first, second = np.empty((2, len(prompts)), np.int64)
        for at, prompt in enumerate(prompts.tolist()):
            _, place = np.unique(answers[at], return_index=True)
            different = answers[at, np.sort(place)]  # in the order drawn
            if len(different) == 1:
                other = (different + self.random.integers(1, sw.ANSWERS)) % sw.ANSWERS
                different = np.concatenate([different, other])
            if selector == "random" or len(different) == 2:
                first[at], second[at] = different[:2]
                continue
            which = np.full(len(different), prompt)
            _, draws = reward.score(self.head, self.features.of(which, different), which)
            question = choose.pair(draws, selector, (*key, at))
            first[at], second[at] = different[question.first], different[question.second]
        return first, second

    def judged(self, prompts: Array, first: Array, second: Array, label: Array) -> reward.Pairs:
        """Return judged pairs as the head learns them."""
        return reward.pairs(self.features.of(prompts, first), self.features.of(prompts, second), label, prompts)


def learner(seed: int, features: str = "lin", **more: Any) -> Learner:
    """Return an untrained learner; `features` is "lin", "summed" or "concatenated"."""
    found = sw.slots() if features == "lin" else sw.hidden(seed, features)
    return Learner(sw.world(seed), found, sw.started(found, **more), np.random.default_rng([seed, 1]))


def everyone() -> Array:
    """Return the prompts of one round: each twice."""
    return np.repeat(np.arange(sw.PROMPTS), ROUND // sw.PROMPTS)


# ---- exact policy, clean and noisy ---------------------------------------------------------------------------------


def learned(
    seed: int, features: str, selector: str, labels: int, flips: float = 0.0, doubt: float = 0.0, rate: str = "none"
) -> dict[int, dict[str, float]]:
    """Learn from labels with flips; return measures of the exact policy at powers of two.

    `doubt`: standard deviations taken from the mean reward. `rate`: the head takes all labels for right ("none"), knows
    the share of flips ("known") or estimates it ("estimated").
    """
    run = learner(seed, features)
    policy, found, table = run.one.reference, {}, annotators.start(2)
    for begin in range(0, labels, ROUND):
        prompts = everyone()
        first, second = run.pairs(policy, prompts, selector, (seed, begin))
        label = sw.labelled(run.one.gold, prompts, first, second, run.random)
        label = np.abs(label - (run.random.random(len(label)) < flips))
        pairs = run.judged(prompts, first, second, label)
        annotators.update(table, pairs.who, label, reward.predict(run.head, pairs))
        reward.append(run.head, pairs)
        rates = {"none": None, "known": np.full(2, 1.0 - flips), "estimated": annotators.reliability(table)}
        reward.fit(run.head, rates[rate])
        mean, draws = sw.rewards(run.head, run.features)
        policy = sw.tilted(run.one.reference, mean - doubt * draws.std(0), B)
        if (count := begin + ROUND) & (count - 1) == 0 and count >= 256:
            found[count] = sw.measures(policy, run.one)
    return found


def exact(seeds: int) -> None:
    """Print the exact policy on clean labels, for each kind of features and each selector."""
    for features in ("lin", "concatenated", "summed"):
        wins: dict[str, dict[int, Array]] = {}
        for selector in ("random", "thompson", "infomax"):
            runs = [learned(seed, features, selector, 1024) for seed in range(seeds)]
            wins[selector] = {n: np.array([one[n]["win"] for one in runs]) for n in (256, 512, 1024)}
            for n, each in wins[selector].items():
                far, eta = (np.mean([one[n][name] for one in runs]) for name in ("kl", "eta"))
                row(f"{features}, {selector}, {n:,} labels (KL {far:.1f}, eta {eta:.2f})", each)
        for selector in ("thompson", "infomax"):
            gains = [wins[selector][n] - wins["random"][n] for n in (256, 512, 1024)]
            for n, gain in zip((256, 512, 1024), gains, strict=True):
                row(f"{features}, {selector} less random, {n:,} labels", gain, -0.01)
            if features == "lin":
                row(f"lin, {selector} at 512 less random at 1,024", wins[selector][512] - wins["random"][1024], -0.01)


def noise(seeds: int) -> None:
    """Print the exact policy with a quarter of the labels flipped."""
    for name, selector, doubt, rate, bound in (
        ("random, mean (default recipe)", "random", 0.0, "estimated", None),
        ("random, mean, labels taken for right", "random", 0.0, "none", None),
        ("thompson, mean, labels taken for right", "thompson", 0.0, "none", None),
        ("thompson, mean less one deviation, labels taken for right", "thompson", 1.0, "none", None),
        ("thompson, mean less one deviation", "thompson", 1.0, "estimated", 0.87),
        ("thompson, mean less one deviation, known rate", "thompson", 1.0, "known", None),
    ):
        runs = [learned(seed, "lin", selector, 1024, 0.25, doubt, rate) for seed in range(seeds)]
        for n in (512, 1024):
            row(f"25 % flips, {name}, {n:,} labels", [one[n]["win"] for one in runs], bound if n == 1024 else None)


# ---- annotators ----------------------------------------------------------------------------------------------------

RATES = np.array([1.0, 0.95, 0.90, 0.85, 0.50, 0.10])  # of annotators 1 to 5


def judged_by_five(
    seed: int, how: str, selector: str = "thompson", gold: float = 0.0, labels: int = 2048
) -> dict[str, Any]:
    """Learn from five annotators; `how` their reliability is found: "before", "known", "alike" or "fitted"."""
    run = learner(seed, "lin")
    table, policy = annotators.start(6), run.one.reference
    found: dict[str, Any] = {"named": labels + 1, "wrong": 0}
    for begin in range(0, labels, ROUND):
        prompts = everyone()
        first, second = run.pairs(policy, prompts, selector, (seed, begin))
        label = sw.labelled(run.one.gold, prompts, first, second, run.random)
        who = run.random.integers(1, 6, ROUND)
        label = np.abs(label - (run.random.random(ROUND) > RATES[who]))
        planted = run.random.random(ROUND) < gold
        pairs = run.judged(prompts, first, second, label)._replace(who=who)
        lessons = reward.taken(pairs, np.flatnonzero(~planted))
        if how == "fitted":
            reward.append(run.head, lessons, annotators.reliability(table))
            reward.fit(run.head, annotators.reliability(table))
        proba = reward.predict(run.head, lessons)
        annotators.update(table, lessons.who, lessons.label, proba)
        annotators.gold(table, who[planted], run.random.random(int(planted.sum())) < RATES[who[planted]])
        if how != "fitted":
            rates = {"before": annotators.reliability(table), "known": RATES, "alike": np.ones(6)}[how]
            reward.append(run.head, lessons, rates)
            reward.fit(run.head, rates)
        mean, _ = sw.rewards(run.head, run.features)
        policy = sw.tilted(run.one.reference, mean, B)
        names = annotators.named(table)
        count = begin + ROUND
        if names[5] == annotators.INVERTED:
            found["named"] = min(found["named"], count)
        found["wrong"] += int((names[1:4] > 0).any())
        if count in (512, 1024, 2048):
            found[count] = sw.win(policy, run.one)
    return {**found, "q": annotators.reliability(table)[1:]}


def five(seeds: int) -> None:
    """Print the win with five annotators, and when the inverted one is named."""
    for name, how, selector, gold, bounds in (
        ("known rates", "known", "thompson", 0.0, (None, None)),
        ("all alike", "alike", "thompson", 0.0, (None, None)),
        ("judged by the fitted model", "fitted", "thompson", 0.0, (None, None)),
        ("judged before learning", "before", "thompson", 0.0, (0.93, 1400)),
        ("judged before learning, infomax", "before", "infomax", 0.0, (0.93, 1400)),
        ("judged before learning, 1 in 20 gold", "before", "thompson", 0.05, (0.93, 512)),
    ):
        runs = [judged_by_five(seed, how, selector, gold) for seed in range(seeds)]
        for n in (512, 1024, 2048):
            row(f"five annotators, {name}, {n:,} labels", [one[n] for one in runs], bounds[0] if n == 2048 else None)
        row(f"five annotators, {name}: inverted one named at", [one["named"] for one in runs], None, bounds[1])
        row(f"five annotators, {name}: rounds with a good one named", [one["wrong"] for one in runs])
        print("      reliabilities at the end", np.mean([one["q"] for one in runs], 0).round(2).tolist())


# ---- a judge that loves length -------------------------------------------------------------------------------------

PADDING = np.isin(sw.WORDS_OF, (12, 13, 14, 15)).sum(1).astype(np.float64)  # four words in every slot are padding


def length_lover(seed: int, biased: bool, labels: int = 1024) -> dict[Any, float]:
    """Learn from people (1 in 8), who dislike padding, and a judge, whose reward is theirs + 3 for each padding word.

    The answers' length is the number of padding words. `biased`: the judge's length term is part of the head. The KL
    budget is a nat for every 16 labels of people, at most 8.
    """
    run = learner(seed, "lin", kinds=2)
    gold = sw.standardized(run.one.gold - PADDING)
    policy, found = run.one.reference, {}
    for begin in range(0, labels, ROUND):
        prompts = run.random.permutation(everyone())
        people = np.arange(ROUND) % 8 == 0
        first, second = run.pairs(policy, prompts, "thompson", (seed, begin))
        first = np.where(people, sw.sampled(policy, prompts, run.random), first)
        second = np.where(people, sw.sampled(run.one.reference, prompts, run.random), second)
        label = np.where(
            people,
            sw.labelled(gold, prompts, first, second, run.random),
            sw.labelled(gold + 3.0 * PADDING, prompts, first, second, run.random),
        )
        terms = np.zeros((ROUND, 3))
        terms[:, 0] = PADDING[first] - PADDING[second]
        pairs = run.judged(prompts, first, second, label)
        reward.append(run.head, pairs._replace(kind=(~people & biased).astype(np.int64), terms=terms))
        reward.fit(run.head)
        mean, _ = sw.rewards(run.head, run.features)
        count = begin + ROUND
        policy = sw.tilted_to(run.one.reference, mean, min(8.0, count / 8 / 16))
        if count in (128, 256, 512, 1024):
            found[count] = sw.win(policy, run.one, gold)
        found["lowest"] = min(found.get("lowest", 1.0), sw.win(policy, run.one, gold))
    found["judge"] = sw.win(policy, run.one, gold + 3.0 * PADDING)
    found["padding"] = float((np.exp(policy) * PADDING).sum(1).mean())
    return found


def length(seeds: int) -> None:
    """Print the people's win where most labels come from a judge that loves length."""
    for name, biased in (("all labels alike", False), ("bias terms per source", True)):
        runs = [length_lover(seed, biased) for seed in range(seeds)]
        for n in (128, 256, 512, 1024):
            bound = {512: 0.90, 1024: 0.94}.get(n) if biased else None
            row(f"length-loving judge, {name}, people's win, {n:,} labels", [one[n] for one in runs], bound)
        row(
            f"length-loving judge, {name}, lowest at any round",
            [one["lowest"] for one in runs],
            0.5 if biased else None,
        )
        row(f"length-loving judge, {name}, judge's win at the end", [one["judge"] for one in runs])
        row(f"length-loving judge, {name}, padding words at the end", [one["padding"] for one in runs])


# ---- drift ---------------------------------------------------------------------------------------------------------


def turned(
    seed: int,
    react: bool = True,
    change: bool = True,
    mixed: float = 0.25,
    labels: int = 2048,
    selector: str = "thompson",
    b: float = B,
) -> dict[Any, float]:
    """Negate the gold of half of the prompts after half of the labels; groups are prompts."""
    run = learner(seed, "lin")
    detectors, policy, found = (
        groups.start(sw.PROMPTS),
        run.one.reference,
        {"alarms": 0.0, "wrong": 0.0, "delay": np.inf},
    )
    drifted = np.random.default_rng([seed, 2]).permutation(sw.PROMPTS)[: sw.PROMPTS // 2]
    turned_gold = run.one.gold.copy()
    turned_gold[drifted] *= -1
    hit: set[int] = set()
    for begin in range(0, labels, ROUND):
        after = change and begin >= labels // 2
        gold = turned_gold if after else run.one.gold
        prompts = everyone()
        first, second = run.pairs(policy, prompts, selector, (seed, begin), mixed)
        label = sw.labelled(gold, prompts, first, second, run.random)
        pairs = run.judged(prompts, first, second, label)
        alarms = groups.update(detectors, prompts, label, reward.predict(run.head, pairs))
        reward.append(run.head, pairs)
        count = begin + ROUND
        for one in alarms:
            if not after:
                found["alarms"] += 1
                continue
            hit.add(one)
            found["delay"] = min(found["delay"], count - labels // 2)
        for one in sorted(alarms) if react else ():
            reward.forget(run.head, one, alarms[one])
        reward.fit(run.head)
        mean, _ = sw.rewards(run.head, run.features)
        policy = sw.tilted(run.one.reference, mean, b)
        if not after:
            found["before"] = sw.win(policy, run.one)
        elif (past := count - labels // 2) in (256, 512, 1024):
            wins = sw.wins(policy, run.one, turned_gold)
            found[past], found["stable"] = wins[drifted].mean(), np.delete(wins, drifted).mean()
    found["named"], found["wrong"] = len(hit & set(drifted.tolist())), len(hit - set(drifted.tolist()))
    return found


def drift(seeds: int) -> None:
    """Print how preferences that turned are won back, and false alarms without a change."""
    for name, react, mixed in (("groups reset on alarm", True, 0.25), ("everything kept", False, 0.25)):
        runs = [turned(seed, react, mixed=mixed) for seed in range(seeds)]
        row(f"half negated, {name}: win before", [one["before"] for one in runs])
        for n in (256, 512, 1024):
            bound = {512: 0.75, 1024: 0.90}.get(n) if react else None
            row(f"half negated, {name}: drifted prompts after {n:,}", [one[n] for one in runs], bound)
        row(
            f"half negated, {name}: stable prompts after 1,024",
            [one["stable"] for one in runs],
            0.98 if react else None,
        )
        row(f"half negated, {name}: first alarm after", [one["delay"] for one in runs], None, 350 if react else None)
        row(f"half negated, {name}: groups named of 8", [one["named"] for one in runs])
        row(f"half negated, {name}: groups named wrongly", [one["wrong"] for one in runs])
    clean = [turned(seed, change=False, labels=1024)["alarms"] for seed in range(10)]
    row("alarms in 10 clean runs of 1,024 labels", [sum(clean)], None, 0)


RULE = np.where(sw.WORDS_OF[:, 0] < sw.WORDS // 2, 1.0, -1.0)  # the guideline: the first word is of the first half


def guideline(
    seed: int, watched: int = sw.PROMPTS, react: bool = True, labels: int = 2048, at: int = 512
) -> tuple[dict[int, float], int]:
    """Reverse one rule of the gold after `at` verdicts; return the win by what holds then, and the number of alarms.

    The gold is that of the world plus 1.5 times the rule, before, and minus it, after. Drift is watched for in
    `watched` groups of prompts.
    """
    run = learner(seed, "lin")
    golds = [sw.standardized(run.one.gold + sign * 1.5 * RULE) for sign in (1, -1)]
    detectors, policy, found, named = groups.start(watched), run.one.reference, dict[int, float](), 0
    for begin in range(0, labels, ROUND):
        gold, prompts = golds[begin >= at], everyone()
        if begin == at:
            found[at + 1] = sw.win(policy, run.one, gold)  # just after the change
        pairs = run.pairs(policy, prompts, "thompson", (seed, begin), 0.25)
        label = sw.labelled(gold, prompts, *pairs, run.random)
        judged = run.judged(prompts, *pairs, label)
        alarms = groups.update(detectors, prompts % watched, label, reward.predict(run.head, judged))
        named += len(alarms)
        reward.append(run.head, judged)
        for prompt in range(sw.PROMPTS):
            if react and prompt % watched in alarms:
                reward.forget(run.head, prompt, 6 * ROUND)
        reward.fit(run.head)
        policy = sw.tilted(run.one.reference, sw.rewards(run.head, run.features)[0], B)
        found[begin + ROUND] = sw.win(policy, run.one, gold)
    return found, named


def reversal(seeds: int) -> None:
    """Print the curve of a guideline that is reversed after 512 verdicts, and the verdicts until it is won back."""
    for name, watched, react in (
        ("one group, reset on alarm", 1, True),
        ("16 groups, reset on alarm", 16, True),
        ("everything kept", 16, False),
    ):
        runs = [guideline(seed, watched, react) for seed in range(seeds)]
        curves = [curve for curve, _ in runs]
        for n in (256, 512, 513, 544, 576, 640, 768, 1024, 1536, 2048):
            row(f"guideline reversed after 512, {name}: win at {n:,}", [curve[n] for curve in curves])
        back = [
            min((n - 512 for n, win in curve.items() if n > 513 and win >= curve[512] - 0.02), default=np.inf)
            for curve in curves
        ]
        row(f"guideline reversed after 512, {name}: verdicts until won back less 2 points", back)
        row(f"guideline reversed after 512, {name}: alarms", [named for _, named in runs])


# ---- the linear world ----------------------------------------------------------------------------------------------


def needed(seed: int, selector: str, most: int = 400, draws: int = 64) -> int:
    """Return the labels after which the best of 16 has 90 % of the oracle's gain, one label at a time."""
    one = sw.linear_world(seed)
    random, width = np.random.default_rng([seed, 3]), len(one.scale)
    held_out = one.candidates(np.random.default_rng([seed, 4]), 512)
    gold = held_out @ one.gold
    top = gold.max(1).mean() - gold.mean()
    head = reward.start(width, variance=1.0, draws=draws, window=512, seed=seed)
    for label in range(most):
        x = one.candidates(random, 1)[0].astype(np.float32)
        _, each = reward.score(head, x, np.zeros(len(x), np.int64))
        question = choose.pair(each, selector, (seed, label))
        pair = x[[question.first]], x[[question.second]]
        p = 1 / (1 + np.exp(-(pair[0] - pair[1]) @ one.gold))
        reward.append(head, reward.pairs(*pair, (random.random(1) < p) * 1.0))
        reward.fit(head)
        best = (held_out @ head["weights"].sum(0)).argmax(1)
        if gold[np.arange(512), best].mean() - gold.mean() >= 0.9 * top:
            return label + 1
    return most


def linear(seeds: int) -> None:
    """Print the labels needed in the linear world, over 40 seeds (median), and their share of those of random pairs."""
    runs = max(8, 40 * min(seeds, 3) // 3)
    medians: dict[str, float] = {}
    for name in ("random", "uncertain", "infomax"):
        medians[name] = float(np.median([needed(seed, name) for seed in range(runs)]))
        share, bound = medians[name] / medians["random"], 0.5 if name == "infomax" else None
        row(f"linear world, {runs} seeds, {name}: {medians[name]:.0f} labels, share of random", [share], None, bound)


# ---- the whole product ---------------------------------------------------------------------------------------------

QUICK = False


def transformer(seeds: int) -> None:
    """Print win, KL and eta of the transformer policy, taught by generic features and random pairs."""
    most = 512 if QUICK else 1024
    runs = [slotpolicy.plain(seed, most) for seed in range(seeds)]
    for n in (number for number in (128, 256, 512, 1024) if number <= most):
        far, eta = (np.mean([one[n][name] for one in runs]) for name in ("kl", "eta"))
        bound = {256: 0.82, 512: 0.93, 1024: 0.95}.get(n)
        row(f"transformer, {n:,} labels (KL {far:.1f}, eta {eta:.2f})", [one[n]["win"] for one in runs], bound)


def selector(seeds: int) -> None:
    """Print the transformer policy with chosen pairs, less that with random ones."""
    most = 256 if QUICK else 512
    wins = {
        name: [slotpolicy.plain(seed, most, choose={"selector": name}) for seed in range(seeds)]
        for name in ("random", "thompson")
    }
    for n in (number for number in (256, 512) if number <= most):
        each = {name: np.array([one[n]["win"] for one in runs]) for name, runs in wins.items()}
        row(f"transformer, thompson, {n:,} labels", each["thompson"])
        row(f"transformer, thompson less random, {n:,} labels", each["thompson"] - each["random"], -0.01)


def flips(seeds: int) -> None:
    """Print the transformer policy with a quarter of the labels flipped."""
    most = 512 if QUICK else 1024
    runs = [slotpolicy.plain(seed, most, 0.25) for seed in range(seeds)]
    for n in (number for number in (512, 1024) if number <= most):
        far, eta = (np.mean([one[n][name] for one in runs]) for name in ("kl", "eta"))
        row(f"transformer, 25 % flips, {n:,} labels (KL {far:.1f}, eta {eta:.2f})", [one[n]["win"] for one in runs])


def mixed(seeds: int) -> None:
    """Print the transformer policy with five annotators, a judge who loves padding, and preferences that turn."""
    share = 2 if QUICK else 1
    several = [slotpolicy.five(seed, 2048 // share) for seed in range(seeds)]
    for n in (number for number in (512, 1024, 2048) if number <= 2048 // share):
        row(f"transformer, five annotators, {n:,} labels", [one[n] for one in several])
    row("transformer, five annotators: inverted one named at", [one["named"] for one in several])
    padded = [slotpolicy.padded(seed, 1024 // share) for seed in range(seeds)]
    for n in (number for number in (128, 256, 512, 1024) if number <= 1024 // share):
        row(f"transformer, judge who loves padding, people's win, {n:,} labels", [one[n] for one in padded])
    row("transformer, judge who loves padding, lowest people's win", [one["lowest"] for one in padded])
    turns = [slotpolicy.negated(seed, 2048 // share) for seed in range(seeds)]
    row("transformer, half negated: win before", [one["before"] for one in turns])
    for n in (number for number in (256, 512, 1024) if number <= 1024 // share):
        row(f"transformer, half negated: drifted prompts after {n:,}", [one[n] for one in turns])
    row("transformer, half negated: stable prompts at the end", [one["stable"] for one in turns])
    row("transformer, half negated: first alarm after", [one["delay"] for one in turns])
    row("transformer, half negated: runs with an alarm before the change", [one["early"] for one in turns])


ROWS: dict[str, Callable[[int], None]] = {
    "exact": exact,
    "noise": noise,
    "annotators": five,
    "length": length,
    "drift": drift,
    "reversal": reversal,
    "linear": linear,
    "transformer": transformer,
    "selector": selector,
    "flips": flips,
    "mixed": mixed,
}
"""The rows by name, each a function of the number of seeds."""


def main() -> None:
    """Print the rows asked for, then those that missed their bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    global QUICK
    QUICK = chosen.quick
    torch.set_num_threads(1)
    for name in chosen.only:
        begun = time.perf_counter()
        print(name)
        ROWS[name](1 if chosen.quick else chosen.seeds)
        print(f"  {time.perf_counter() - begun:.0f} s")
    print("missed:", *(MISSED or ["nothing"]), sep="\n  ")


if __name__ == "__main__":
    main()
