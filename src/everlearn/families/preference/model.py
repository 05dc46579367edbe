"""The preference model: reward model and policy as one model, in one version.

A row is a pair of answers; `predict` returns the reward model's probability that each is preferred. `learn` takes one
pair after the other: it predicts, judges the annotator by that prediction, looks for drift of the group, moves the
reward model, and after every `round` labels improves the policy by answers that it samples itself, seeded by the number
of labels. So the state is a function of the labels and their order.

    policy/... reference/... base learn/optimizer/...   see `policy`
    features/...     the map from hidden states to features (`features`)
    reward/...       the head (`reward`); kinds/... and groups/... number the sources and groups (`first_come`)
    annotators/...   their reliability (`annotators`)
    progress/...     labels, trusted labels and rounds, and the measurements of the first and the last 64 rounds
    measures/...     errors, strangeness, lengths and sources of judged pairs (`measures`)
    asking/...       what random questions teach, and what chosen ones are worth beside them (`choose`)
    learn/pool/... learn/judged/... learn/drift/...     prompts, judged pairs, detectors (`memories`, `groups`)

Everything that a round needs is in the arrays. On the CPU they share memory with the tensors that steps write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from everlearn.errors import InputError, ModelError
from everlearn.families.preference import (
    annotators,
    asking,
    choose,
    examples,
    features,
    first_come,
    groups,
    guards,
    improve,
    laplace,
    measures,
    memories,
    pair_rows,
    passes,
    reward,
    sampling,
    settings,
    summary,
    text,
)
from everlearn.families.preference.pair_rows import ACTIVE, AGAIN, GOLD, RANDOM, REPEAT, PairRows
from everlearn.families.preference.parts import REMEMBERED, name_of, untrained_head, untrained_parts
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.policy_folder import write_policy
from everlearn.families.preference.settings import Settings
from everlearn.families.preference.summary import EVIDENCE, LABELS, REPEATED, ROUNDS, TRUSTED
from everlearn.families.preference.text import Ids
from everlearn.model import LEARN, compare, described
from everlearn.records import Arrays, Batch, Floats, Loss, Singles
from everlearn.schema import pairs as columns
from everlearn.schema.question import Asked

RECENT = 192  # newest labels, of which those of a group stay when it has drifted
NOMINATING = 8  # newest prompts by which a candidate is nominated
SPREAD = 256  # answers of the reference that the map of features is made from
HEAVIEST = 10.0  # a weight counts as at most this
MARKUP = frozenset("*#`|_>-\n")  # characters whose number is the format of an answer


_ARMS = {RANDOM: choose.RANDOM, ACTIVE: choose.ACTIVE}  # nothing chose the answers of other pairs
_SETTLING = 1  # last part of the key of random numbers


class PreferenceModel:
    """A language model that learns from preferences; see the module. `build` makes it from a spec.

    `tokenizer` may be None for a model that sees token ids alone. Raises `ConfigError` for settings that do not fit.
    """

    loss = Loss("log_loss")

    def __init__(self, chosen: Settings, policy: Policy, tokenizer: Any = None, taught: examples.Taught = ()) -> None:
        self.spec: Mapping[str, Any] = settings.written(chosen)
        self.settings = chosen
        self.policy = policy
        self.tokenizer = tokenizer
        self.stop = text.stop_tokens(policy.module, tokenizer)
        self.origin: object = None  # keeps the weights alive that models of this spec share
        self._nominated: tuple[tuple[float, ...], bool] | None = None  # rounds of both policies, and the result
        self._parts = untrained_parts(chosen, self._raw([0], [[0]]).shape[1], taught)

    # ---- the contract ----------------------------------------------------------------------------------------------

    @property
    def arrays(self) -> Arrays:
        """A map of names to the arrays that must survive a restart."""
        return {
            **self.policy.arrays,
            **{name_of(part, name): array for part, held in self._parts.items() for name, array in held.items()},
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
            if part == "examples":
                examples.check_same(held, {name: arrays[name_of(part, name)] for name in held})
            for name in held:
                given = arrays[name_of(part, name)]
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
        return pair_rows.faults(batch, self.settings.hashed)

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Return the probabilities that the second and the first answer of n pairs is preferred, float32 (n, 2).

        They are 1/2 for a row without tokens, such as the empty row that a loop tries a new model with. Raises
        `InputError`, as `learn` does before it learns anything, for another row that is no pair.
        """
        rows = self._read(batch)
        scores = np.full((len(batch), 2), 0.5, np.float32)
        for row in self._filled(rows):
            first, second = self._raw_pair(rows, row)
            p = reward.predict(self._parts["reward"], self._pair(rows, row, first, second))[0]
            scores[row] = 1.0 - p, p
        return scores

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Learn n judged pairs in order; y is 1 where the first answer is preferred. Returns `predict` before each."""
        rows = self._read(batch)
        scores = np.full((len(batch), 2), 0.5, np.float32)
        for row in self._filled(rows):
            first, second = self._raw_pair(rows, row)
            p = float(reward.predict(self._parts["reward"], self._pair(rows, row, first, second))[0])
            scores[row] = 1.0 - p, p
            if weight[row] > 0.0 and np.isfinite(weight[row]) and np.isfinite(y[row]):
                self._learn(rows, row, first, second, p, float(y[row] > 0.5), min(float(weight[row]), HEAVIEST))
        return scores

    def summary(self) -> dict[str, Any]:
        """Return the state in plain values; see `summary.summary`."""
        return summary.summary(self._parts["progress"], self._parts["annotators"])

    # ---- questions -------------------------------------------------------------------------------------------------

    def ask(
        self,
        prompt: str | Sequence[text.Message],
        key: asking.Key,
        *,
        group: str = "",
        version: str = "",
        uid: int = 0,
        rival: tuple[Any, int, str] | None = None,
    ) -> Asked:
        """Return a question about a prompt, text or chat messages; see `asking.ask`.

        `rival` is the model, uid and version of another preference model. Raises `InputError` for a prompt that is too
        long, and for a model without a tokenizer.
        """
        other, position = None if rival is None else asking.Side(*rival), self.policy.reference_digest
        named: dict[str, Any] = {"group": group, "version": version, "uid": uid, "position": position}
        return asking.ask(self, self.prompt_ids(prompt), key, rival=other, **named)

    def transcribe(
        self,
        prompt: str | Sequence[text.Message],
        answers: Sequence[str | Sequence[text.Message]],
        key: asking.Key,
        *,
        repeated: bool = False,
        group: str = "",
    ) -> tuple[Asked, int]:
        """Return a question about two written answers, better first; see `asking.transcribed`. Raises as `ask` does."""
        return asking.transcribed(self, self.prompt_ids(prompt), answers, key, repeated=repeated, group=group)

    def nominates(self, champion: Any) -> bool:
        """Return True if this model's policy, as a candidate, shall duel that of the champion.

        It shall once its reward model expects a win of `choose.nominate` on the newest prompts. Asked again after each
        round of either policy.
        """
        state = tuple(float(one.part("progress")["counts"][ROUNDS]) for one in (self, champion))
        if self._nominated is None or self._nominated[0] != state:
            prompts = [ids.tolist() for ids in memories.newest(self._parts["pool"], NOMINATING)]
            key = (self.settings.seed, int(state[0]))
            self._nominated = state, asking.nominated(self, champion, prompts, key)
        return self._nominated[1]

    def prompt_ids(self, prompt: str | Sequence[text.Message]) -> list[int]:
        """Return the tokens of a prompt, text or chat messages. Raises `InputError` as `ask` does."""
        if self.tokenizer is None:
            raise InputError("tokenizer: got none; expected one that turns prompts into tokens. Set model.tokenizer")
        ids, most = text.render(self.tokenizer, prompt), self.settings.pairs.prompt_tokens
        if len(ids) > most:
            raise InputError(
                f"the prompt has {len(ids)} tokens; expected at most {most} (schema.prompt_tokens). Shorten it"
            )
        return ids

    def export(self, folder: str | Path) -> None:
        """Write the policy to a folder, as PEFT or transformers loads it; see `policy_folder.write_policy`."""
        write_policy(self.policy, self.settings.model, self.tokenizer, folder)

    def _read(self, batch: Batch) -> PairRows:
        for row, reason in self.refused(batch).items():
            if batch.indptr[row + 1] > batch.indptr[row] or batch.dense[row].any():
                raise InputError(f"row {row} is no pair of answers: {reason}")
        return pair_rows.read(batch)

    def _filled(self, rows: PairRows) -> list[int]:
        return [row for row, prompt in enumerate(rows.prompts) if len(prompt)]

    # ---- reports ---------------------------------------------------------------------------------------------------

    def alarms(self, duels: Arrays | None) -> dict[str, str]:
        """Return the reasons of the guards whose limit is exceeded, by guard; see `guards`."""
        first, now = self._rounds()
        return guards.alarms(guards.Measured(first, now, self.settings.improve.budget, duels), self.settings.guards)

    def drifted(self) -> dict[int, int]:
        """Return the groups whose preferences turned: by digest, the number of the label of the last alarm."""
        held, table = self._parts["drift"]["groups"], self._parts["groups"][first_come.DIGESTS]
        return {int(table[one]): int(held[one, groups.LAST]) for one in np.flatnonzero(held[:, groups.ALARMS])}

    def measures(self) -> dict[str, Any]:
        """Return measurements of the policy and the reward model, as plain values; `kinds` counts labels by digest."""
        counts, (_, now) = self._parts["progress"]["counts"], self._rounds()
        found = measures.report(self._parts["measures"])
        kinds = zip(self._parts["kinds"][first_come.DIGESTS].tolist(), self._parts["measures"]["kinds"], strict=True)
        names = "kl", "k3", "budget", "entropy", "length", "distinct", "repetition", "reward"
        return {
            "labels": float(counts[LABELS]),
            "rounds": int(counts[ROUNDS]),
            "policy": {name: getattr(now, name) for name in names} if now is not None else {},
            "kinds": {int(columns.number(columns.PEOPLE)): found["trusted"]}
            | {int(digest): float(count) for digest, count in kinds if digest and count},
            **found,
        }

    def _rounds(self) -> tuple[improve.Round | None, improve.Round | None]:
        held = self._parts["progress"]
        return guards.rounds(held["first"], held["rounds"], int(held["counts"][ROUNDS]))

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
            annotators.timed(parts["annotators"], who, rows.seconds[one])
            return
        if rows.arm[row] == REPEAT:  # read before: nothing new about tastes, annotators or drift
            q = float(annotators.reliability(parts["annotators"])[who[0]])
            self._remember(rows, row, label, weight, q, int(group[0]))
            self._count(REPEATED, weight)
            return
        if rows.arm[row] == AGAIN:  # the model has learned this annotator's earlier judgement
            if rows.before[row] >= 0:
                annotators.again(parts["annotators"], who, np.array([label > 0.5]) == (rows.before[one] == 0))
            annotators.timed(parts["annotators"], who, rows.seconds[one])
            self._measure(rows, row, (first, second), (label - p) ** 2, 0.0)
            return
        annotators.update(parts["annotators"], who, np.array([label]), np.array([p]), rows.seconds[one])
        if rows.arm[row] == RANDOM and len(rows.second[row]):
            self._follow(self._pair(rows, row, first, second, label, weight))
        alarms = groups.update(parts["drift"], group, np.array([label]), np.array([p]))
        reliability = annotators.reliability(parts["annotators"])
        if alarms:
            choose.again(parts["asking"])
        for drifted in alarms:
            reward.forget(parts["reward"], drifted, RECENT)
        self._measure(rows, row, (first, second), (label - p) ** 2, weight)
        if self.settings.reward.learn:
            self._move(rows, row, first, second, label, weight, reliability)
            if alarms:
                laplace.fit(parts["reward"], reliability)
        self._remember(rows, row, label, weight, float(reliability[who[0]]), int(group[0]))
        parts["progress"]["counts"][TRUSTED] += min(weight, 1.0) if rows.trusted[row] else 0.0
        counts = parts["progress"]["counts"]
        counts[EVIDENCE] = max(counts[EVIDENCE], annotators.skill(parts["annotators"]))
        self._count(LABELS, weight)

    def _count(self, what: int, weight: float) -> None:
        """Count a label, or one that was read again, and take a round of steps after every `round` of both."""
        counts = self._parts["progress"]["counts"]
        before = counts[LABELS] + counts[REPEATED]
        counts[what] += min(weight, 1.0)
        if before // self.settings.round != (counts[LABELS] + counts[REPEATED]) // self.settings.round:
            self._improve()

    def _follow(self, pair: reward.Pairs) -> None:
        """Follow what a pair of the random arm teaches, and what labels of both arms are worth for it."""
        head, both = self._parts["reward"], np.concatenate([pair.first, pair.second])
        _, draws = reward.score(head, both, np.repeat(pair.group, 2))
        value = float(choose.information(draws)[0, 1])
        choose.saw(self._parts["asking"], value, reward.worth_of_arms(head, pair)[0])

    def _move(
        self, rows: PairRows, row: int, first: Singles, second: Singles, label: float, weight: float, q: Floats
    ) -> None:
        """Move the reward model by one label; start it again on all labels where their features changed."""
        parts = self._parts
        other = second if len(rows.second[row]) else None
        if features.add(parts["features"], first, other, self.settings.reward.whitening):
            self._remap(q)
        reward.learn(parts["reward"], self._pair(rows, row, first, second, label, weight), q)

    def _remap(self, q: Floats) -> None:
        """Start the reward model again on its labels, whose raw features are kept, after their map changed."""
        parts = self._parts
        head, n = parts["reward"], int(parts["reward"]["learn/counts"][laplace.COUNT])
        if n:
            answers = features.kept(parts["features"], head["learn/number"][:n])
            columns: dict[str, Any] = {name: head[f"learn/{name}"][:n].copy() for name in reward.Pairs._fields[2:]}
            fresh = untrained_head(self.settings, head["weights"].shape[1])
            reward.append(fresh, reward.Pairs(*answers, **columns), q)
            for name in ("number", "noise"):  # labels that a group has forgotten left gaps
                fresh[f"learn/{name}"][:n] = head[f"learn/{name}"][:n]
            fresh["learn/counts"][laplace.TOTAL] = head["learn/counts"][laplace.TOTAL]
            for name, array in fresh.items():
                head[name][...] = array
            laplace.fit(head, q)

    def _settle(self, prompts: list[Ids]) -> None:
        """Make the map of features for the last time, from answers of the reference."""
        parts, key = self._parts, (self.settings.seed, _SETTLING)
        if features.settled(parts["features"]):
            return
        each = -(-SPREAD // len(prompts))
        seeds = np.random.default_rng(key).integers(2**62, size=len(prompts)).tolist()
        raw = []
        with self.policy.reference() as module:
            for prompt, seed in zip(prompts, seeds, strict=True):
                limit = self.settings.improve.limit or self.settings.pairs.answer_tokens
                found = sampling.generate(module, prompt, each, seed=seed, limit=limit, stop=self.stop)
                raw.append(self._raw(prompt, [one.ids for one in found]))
        features.settle(parts["features"], np.concatenate(raw), self.settings.reward.whitening)
        self._remap(annotators.reliability(parts["annotators"]))

    def _measure(self, rows: PairRows, row: int, raw: tuple[Singles, Singles], error: float, weight: float) -> None:
        """Measure one judged pair before the reward model learns it."""
        parts, answers = self._parts, [one[row] for one in (rows.first, rows.second) if len(one[row])]
        odd = reward.strangeness(parts["reward"], features.mapped(parts["features"], np.stack(raw[: len(answers)])))
        length = float(np.mean([len(one) for one in answers])) if answers else 0.0
        kind = int(first_come.numbers(parts["kinds"], rows.kind[row : row + 1])[0])
        arm, strange = int(rows.arm[row]), float(odd.mean()) if len(odd) else 0.0
        measures.update(parts["measures"], arm, error, strange, length, kind, bool(rows.trusted[row]), weight)

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
        if chosen.reward.learn and not counts[ROUNDS]:
            self._settle([one.tolist() for one in new])

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
            structs.replace(
                chosen.improve,
                layers=chosen.reward.layers,
                limit=chosen.improve.limit or chosen.pairs.answer_tokens,
            ),
            labels=int(counts[LABELS] + counts[REPEATED]),
            trusted=float(counts[TRUSTED]),
            evidence=float(counts[EVIDENCE]) if chosen.reward.learn else np.inf,
            stride=chosen.round / chosen.improve.ramp if chosen.improve.ramp else np.inf,
            old=[one.tolist() for one in old],
            pairs=memories.held(parts["judged"]) if "judged" in parts else None,
            examples=examples.held(parts["examples"]) if "examples" in parts else (),
            stop=self.stop,
            seed=chosen.seed,
        )
        if not counts[ROUNDS]:
            parts["progress"]["first"][:] = counts[LABELS], *measured
        parts["progress"]["rounds"][int(counts[ROUNDS]) % REMEMBERED] = counts[LABELS], *measured
        counts[ROUNDS] += 1

    # ---- features --------------------------------------------------------------------------------------------------

    def _raw(self, prompt: Ids, answers: list[Ids]) -> Singles:
        """Return the raw features of answers to one prompt, float32 (n, D)."""
        with self.policy.reference() as module:
            found = passes.read_answers(module, [prompt] * len(answers), answers, layers=self.settings.reward.layers)
        return np.asarray(found.features, np.float32)

    def _raw_pair(self, rows: PairRows, row: int) -> tuple[Singles, Singles]:
        """Return the raw features of both answers of a pair, (D,) each; both in one pass, whatever else is learned."""
        answers = [one[row].tolist() for one in (rows.first, rows.second)]
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
            np.array([_ARMS.get(int(rows.arm[row]), reward.NO_ARM)]),
        )

    def _format(self, answer: pair_rows.Tokens) -> float:
        """Return the logarithm of the number of characters of markup in an answer, plus 1."""
        if self.tokenizer is None or not len(answer):
            return 0.0
        written = self.tokenizer.decode(answer.tolist(), skip_special_tokens=True)
        return float(np.log1p(sum(character in MARKUP for character in written)))
