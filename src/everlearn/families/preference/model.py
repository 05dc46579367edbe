"""The preference model: reward model and policy as one model, in one version.

A row is a pair of answers; `predict` returns the reward model's probability that each is preferred. `learn` takes one
pair after the other: it predicts, judges the annotator by that prediction, looks for drift of the group, moves the
reward model, and after every `round` labels improves the policy by answers that it samples itself, seeded by the number
of labels. So the state is a function of the labels and their order.

    policy/... reference/... base learn/optimizer/...   see `policy`
    features/...     the map from hidden states to features (`features`)
    reward/...       the head (`reward`); kinds/... and groups/... number the sources and groups (`first_come`)
    annotators/...   their reliability (`annotators`)
    progress/...     labels, trusted labels and rounds, and the measurements of the last 64 rounds
    learn/pool/... learn/judged/... learn/drift/...     prompts, judged pairs, detectors (`memories`, `groups`)

Everything that a round needs is in the arrays. On the CPU they share memory with the tensors that steps write.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from everlearn.errors import InputError, ModelError
from everlearn.families.neural.settings import Lora
from everlearn.families.preference import (
    annotators,
    features,
    first_come,
    groups,
    improve,
    laplace,
    memories,
    pair_rows,
    reward,
    settings,
    text,
)
from everlearn.families.preference.methods import METHODS
from everlearn.families.preference.pair_rows import GOLD, PairRows
from everlearn.families.preference.policy import Policy, load_model, load_tokenizer
from everlearn.families.preference.settings import Settings
from everlearn.families.preference.text import Ids
from everlearn.model import LEARN, compare
from everlearn.records import Arrays, Batch, Floats, Loss, Singles

LABELS, TRUSTED, ROUNDS = range(3)  # of "progress/counts"
REMEMBERED = 64  # rounds whose measurements are kept
RECENT_ROUNDS = 6  # rounds whose labels stay when a group has drifted
MARKUP = frozenset("*#`|_>-\n")  # characters whose number is the format of an answer

_LEARNING = ("pool", "judged", "drift")  # parts that only learning needs


class PreferenceModel:
    """A language model that learns from preferences; see the module. `build` makes it from a spec.

    `tokenizer` may be None for a model that sees token ids alone. Raises `ConfigError` for settings that do not fit.
    """

    loss = Loss("log_loss", 0.001)

    def __init__(self, chosen: Settings, policy: Policy, tokenizer: Any = None) -> None:
        self.spec: Mapping[str, Any] = settings.written(chosen)
        self.settings = chosen
        self.policy = policy
        self.tokenizer = tokenizer
        self.stop = text.stop_tokens(policy.module, tokenizer)
        self._parts = _start(chosen, self._raw([0], [[0]]).shape[1])

    # ---- the contract ----------------------------------------------------------------------------------------------

    @property
    def arrays(self) -> Arrays:
        """A map of names to the arrays that must survive a restart."""
        return {
            **self.policy.arrays,
            **{_name(part, name): array for part, held in self._parts.items() for name, array in held.items()},
        }

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        now = self.arrays
        if not any(name.startswith(LEARN) for name in arrays):  # what serves: nothing is learned with it
            arrays = {**{name: array for name, array in now.items() if name.startswith(LEARN)}, **arrays}
        if differences := compare(now, arrays):
            raise ModelError("these arrays do not fit this model: " + "; ".join(differences))
        self.policy.restore({name: arrays[name] for name in self.policy.tensors})
        for part, held in self._parts.items():
            for name in held:
                given = arrays[_name(part, name)]
                held[name] = given if given.flags.writeable else given.copy()

    def part(self, name: str) -> Arrays:
        """Return the arrays of one part, such as "reward", which are not copied."""
        return self._parts[name]

    def __copy__(self) -> PreferenceModel:
        """Return an independent model with the same content, which shares the frozen weights with this one."""
        twin = object.__new__(PreferenceModel)
        twin.__dict__.update(self.__dict__)
        twin.policy = copy(self.policy)
        twin._parts = {part: {name: array.copy() for name, array in held.items()} for part, held in self._parts.items()}
        return twin

    def refused(self, batch: Batch) -> dict[int, str]:
        """Return the rows that are no pairs of this model's tokens, with the reasons."""
        vocabulary = self.settings.hashed
        return {
            row: f"got the token {ids.max()}; expected ids below {vocabulary}, those of the model"
            for row in range(len(batch))
            if len(ids := batch.indices[batch.indptr[row] : batch.indptr[row + 1]]) and ids.max() >= vocabulary
        }

    def predict(self, batch: Batch) -> Singles:
        """Return the probabilities that the second and the first answer of n pairs is preferred, float32 (n, 2).

        They are 1/2 for a row without a prompt, such as the empty row that a loop tries a new model with.
        """
        rows = pair_rows.read(batch)
        scores = np.full((len(batch), 2), 0.5, np.float32)
        for row in [row for row in range(len(batch)) if len(rows.prompts[row])]:
            first, second = self._raw_pair(rows, row)
            p = reward.predict(self._parts["reward"], self._pair(rows, row, first, second))[0]
            scores[row] = 1.0 - p, p
        return scores

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Learn n judged pairs in order; y is 1 where the first answer is preferred. Returns `predict` before each."""
        rows = pair_rows.read(batch)
        scores = np.empty((len(batch), 2), np.float32)
        for row in range(len(batch)):
            first, second = self._raw_pair(rows, row)
            p = float(reward.predict(self._parts["reward"], self._pair(rows, row, first, second))[0])
            scores[row] = 1.0 - p, p
            if weight[row] > 0.0 and np.isfinite(weight[row]) and np.isfinite(y[row]):
                self._learn(rows, row, first, second, p, float(y[row] > 0.5), float(weight[row]))
        return scores

    # ---- one label -------------------------------------------------------------------------------------------------

    def _learn(
        self, rows: PairRows, row: int, first: Singles, second: Singles, p: float, label: float, weight: float
    ) -> None:
        """Learn one judged pair that the reward model gave the probability p."""
        parts, one = self._parts, slice(row, row + 1)
        who = first_come.admit(parts["annotators"], rows.who[one])
        first_come.admit(parts["kinds"], rows.kind[one])
        group = first_come.admit(parts["groups"], rows.group[one])
        if rows.arm[row] == GOLD:  # the first answer is known to be better; side and order are random
            annotators.gold(parts["annotators"], who, np.array([label > 0.5]))
            return
        annotators.update(parts["annotators"], who, np.array([label]), np.array([p]))
        alarms = groups.update(parts["drift"], group, np.array([label]), np.array([p]))
        reliability = annotators.reliability(parts["annotators"])
        for drifted in alarms:
            reward.forget(parts["reward"], drifted, RECENT_ROUNDS * self.settings.round)
        if self.settings.reward.learn:
            self._move(rows, row, first, second, label, weight, reliability)
            if alarms:
                laplace.fit(parts["reward"], reliability)
        self._remember(rows, row, label, weight, float(reliability[who[0]]), int(group[0]))
        counts = parts["progress"]["counts"]
        before = counts[LABELS]
        counts[LABELS] += min(weight, 1.0)
        counts[TRUSTED] += min(weight, 1.0) if rows.trusted[row] else 0.0
        if before // self.settings.round != counts[LABELS] // self.settings.round:
            self._improve()

    def _move(
        self, rows: PairRows, row: int, first: Singles, second: Singles, label: float, weight: float, q: Floats
    ) -> None:
        """Move the reward model by one label; start it again on all labels where their features changed."""
        parts = self._parts
        if len(rows.second[row]) and features.add(parts["features"], first, second, self.settings.reward.whitening):
            head, n = parts["reward"], int(parts["reward"]["learn/counts"][laplace.COUNT])
            if n:
                kept = parts["features"][features.KEPT_ANSWERS][:, head["learn/number"][:n]]
                answers = [features.mapped(parts["features"], one) for one in kept]
                columns: dict[str, Any] = {name: head[f"learn/{name}"][:n].copy() for name in reward.Pairs._fields[2:]}
                fresh = _head(self.settings, head["weights"].shape[1])
                reward.append(fresh, reward.Pairs(answers[0], answers[1], **columns), q)
                for name, array in fresh.items():
                    head[name][...] = array
                laplace.fit(head, q)
        reward.learn(parts["reward"], self._pair(rows, row, first, second, label, weight), q)

    def _remember(self, rows: PairRows, row: int, label: float, weight: float, q: float, group: int) -> None:
        stamp = int(self._parts["pool"]["prompts"][:, memories.STAMP].max()) + 1
        memories.add_prompt(self._parts["pool"], rows.prompts[row], group, stamp)
        if "judged" in self._parts and len(rows.second[row]):
            memories.add_judged(self._parts["judged"], rows, row, label, weight, q)

    def _improve(self) -> None:
        """Take a round of steps."""
        chosen, parts = self.settings, self._parts
        counts = parts["progress"]["counts"]
        newest = int(parts["pool"]["prompts"][:, memories.STAMP].max())
        new, old = memories.since(parts["pool"], newest - chosen.round + 1)
        known = memories.groups(parts["pool"])

        def score(prompts: list[Ids], answers: list[Ids], raw: Singles) -> Floats:
            numbers = [known.get(np.asarray(one, np.int32).tobytes(), 0) for one in prompts]
            mean, draws = reward.score(
                parts["reward"], features.mapped(parts["features"], raw), np.array(numbers, np.int64)
            )
            return np.asarray(mean - chosen.reward.caution * draws.std(1))

        measured = improve.improve(
            self.policy,
            [one.tolist() for one in new],
            score,
            chosen.improve,
            labels=int(counts[LABELS]),
            trusted=float(counts[TRUSTED]),
            old=[one.tolist() for one in old],
            pairs=memories.held(parts["judged"]) if "judged" in parts else None,
            stop=self.stop,
            seed=chosen.seed,
        )
        parts["progress"]["rounds"][int(counts[ROUNDS]) % REMEMBERED] = counts[LABELS], *measured
        counts[ROUNDS] += 1

    # ---- features --------------------------------------------------------------------------------------------------

    def _raw(self, prompt: Ids, answers: list[Ids]) -> Singles:
        """Return the raw features of answers to one prompt, float32 (n, D)."""
        with self.policy.reference() as module:
            found = text.read_answers(module, [prompt] * len(answers), answers, layers=self.settings.reward.layers)
        return np.asarray(found.features, np.float32)

    def _raw_pair(self, rows: PairRows, row: int) -> tuple[Singles, Singles]:
        """Return the raw features of both answers of a pair, (D,) each; both in one pass, whatever else is learned."""
        answers = [one[row].tolist() for one in (rows.first, rows.second)]
        if not len(rows.prompts[row]):
            raise InputError(f"row {row} is no pair of answers: its prompt has no tokens")
        first, second = self._raw(rows.prompts[row].tolist(), answers)
        return first, second

    def _pair(
        self, rows: PairRows, row: int, first: Singles, second: Singles, label: float = 0.0, weight: float = 1.0
    ) -> reward.Pairs:
        """Return one pair as the reward model takes it, with the numbers of who judged, as far as they are known."""
        parts, one, single = self._parts, slice(row, row + 1), not len(rows.second[row])
        x = features.mapped(parts["features"], np.stack([first, second]))
        kind = first_come.numbers(parts["kinds"], rows.kind[one])
        lengths = [np.log1p(len(answer[row])) for answer in (rows.first, rows.second)]
        formats = [self._format(answer[row]) for answer in (rows.first, rows.second)]
        terms = np.array([[lengths[0] - lengths[1], rows.side[row], formats[0] - formats[1]]])
        return reward.Pairs(
            x[:1],
            np.zeros_like(x[1:]) if single else x[1:],
            np.array([label]),
            first_come.numbers(parts["groups"], rows.group[one]),
            kind,
            first_come.numbers(parts["annotators"], rows.who[one]),
            terms,
            np.array([weight]),
        )

    def _format(self, answer: pair_rows.Tokens) -> float:
        """Return the logarithm of the number of characters of markup in an answer, plus 1."""
        if self.tokenizer is None or not len(answer):
            return 0.0
        written = self.tokenizer.decode(answer.tolist(), skip_special_tokens=True)
        return float(np.log1p(sum(character in MARKUP for character in written)))


def build(spec: Mapping[str, Any]) -> PreferenceModel:
    """Build a preference model from a spec; see `settings.Settings`.

    Raises `ConfigError` for a wrong setting or a model that cannot be loaded, `MissingExtra` without transformers.
    """
    chosen = settings.read(spec)
    module = load_model(chosen.model, device=chosen.device, dtype=chosen.dtype)
    policy = Policy(
        module,
        lora=_lora(chosen),
        optimizer=chosen.optimizer,
        value=chosen.improve.method == "ppo",
        seed=chosen.seed,
    )
    named = chosen.tokenizer or ("" if ":" in chosen.model else chosen.model)  # a function makes no tokenizer
    return PreferenceModel(chosen, policy, load_tokenizer(named))


def _lora(chosen: Settings) -> Lora | None:
    return chosen.lora if chosen.weights == "adapters" else None


def _head(chosen: Settings, width: int) -> Arrays:
    given = chosen.reward
    return reward.start(
        width,
        groups=chosen.pairs.groups,
        kinds=chosen.pairs.sources,
        window=given.window,
        draws=given.draws,
        variance=given.variance,
        shared=given.shared,
        seed=chosen.seed,
    )


def _start(chosen: Settings, raw: int) -> dict[str, Arrays]:
    """Return the parts of a model beside its policy, before any label."""
    bounds = chosen.pairs
    width = min(chosen.reward.width, raw)
    parts = {
        "features": features.start(raw, width),
        "reward": _head(chosen, width),
        "kinds": first_come.start(bounds.sources),
        "groups": first_come.start(bounds.groups),
        "annotators": annotators.start(bounds.annotators),
        "drift": groups.start(bounds.groups),
        "pool": memories.prompts(chosen.prompts, bounds.prompt_tokens),
        "progress": {
            "counts": np.zeros(3),
            "rounds": np.zeros((REMEMBERED, 1 + len(improve.Round._fields))),
        },
    }
    if METHODS[chosen.improve.method].kind == "pairs":
        parts["judged"] = memories.judged(chosen.judged, bounds.prompt_tokens + 2 * bounds.answer_tokens)
    return parts


def _name(part: str, name: str) -> str:
    """Return the name of an array of the model: those that only learning needs begin with "learn/"."""
    if part in _LEARNING:
        return f"{LEARN}{part}/{name}"
    return f"{LEARN}{part}/{name.removeprefix(LEARN)}" if name.startswith(LEARN) else f"{part}/{name}"
