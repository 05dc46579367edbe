"""Questions: sample candidate answers to a prompt, choose two of them, and record how that came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from msgspec import structs

from everlearn.errors import InputError
from everlearn.families.preference import choose, features, first_come, improve, passes, reward, text
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.sampling import Sampled, Truncation, generate_many
from everlearn.families.preference.settings import Settings
from everlearn.families.preference.summary import EVIDENCE, TRUSTED
from everlearn.families.preference.text import Ids
from everlearn.records import Arrays, Floats
from everlearn.schema import pairs as columns
from everlearn.schema import question
from everlearn.schema.question import Asked, SampledAnswer, Sampling

Key = tuple[int, ...]

_CANDIDATES, _SIDE, _ARM, _ORDER, _DUEL = range(5)  # last part of the key of random numbers
_TRIES = 4  # draws of a duel's answers, until they differ


class AnsweringModel(Protocol):
    """The parts of a preference model that write answers and compare them; `stop` are the tokens that end an answer."""

    settings: Settings
    policy: Policy
    tokenizer: Any
    stop: tuple[int, ...]

    def part(self, name: str) -> Arrays:
        """Return the arrays of one part, such as "reward"."""
        ...


class Side(NamedTuple):
    """One side of a duel: a policy, and the uid and version of the contestant that it is."""

    model: AnsweringModel
    uid: int = 0
    version: str = ""


def ask(
    model: AnsweringModel,
    prompt_ids: Ids,
    key: Key,
    *,
    group: str = "",
    version: str = "",
    uid: int = 0,
    position: str = "",
    rival: Side | None = None,
) -> Asked:
    """Return a question about a prompt: candidates of the policy and of the reference, and which two to compare.

    `key` seeds everything that is random, for instance (seed, number of the question). The pair is chosen from the
    posterior draws of the reward model (`choose.pair`), uniformly where chosen pairs have been worth less than random
    ones; random pairs are two answers of the policy. Which side the first answer is shown on is random. `version` and
    `uid` name what answered, `position` the reference. With a `rival`, the share `choose.duel` of questions are
    duels with it; the propensity counts the arm. Raises `InputError` for a prompt that is too long.
    """
    chosen, limit = model.settings.choose, model.settings.pairs.answer_tokens
    share = chosen.duel if rival is not None else 0.0
    if rival is not None and np.random.default_rng([*key, _ARM]).random() < share:
        own = Side(model, uid, version)
        return duel(own, rival, prompt_ids, key, group=group, position=position, propensity=share)
    selector = selecting(model)
    count = max(chosen.prove if selector == choose.EXTREMES else 0, chosen.candidates)
    theirs = min(round(count * chosen.reference), count - 2) if selector != "random" else 0
    seeds = np.random.default_rng([*key, _CANDIDATES]).integers(2**62, size=2).tolist()
    ours = count - theirs
    found = sample(model, prompt_ids, ours, seed=seeds[0], limit=limit)
    with model.policy.reference() as module:
        if theirs:
            found += generate_many(module, [prompt_ids], theirs, seeds=seeds[1:], limit=limit, stop=model.stop)[0]
    logp, mean, draws = _read(model, prompt_ids, found, group)
    numbers: dict[tuple[int, ...], int] = {}
    alike = np.array([numbers.setdefault(one.ids, len(numbers)) for one in found])
    picked = choose.pair(draws, selector, key, chosen.random / (1.0 - share), ours, alike, mean)
    given = [answer(model, one, version=version, uid=uid, seed=seeds[0]) for one in found[:ours]]
    given += [answer(model, one, version=position, seed=seeds[1]) for one in found[ours:]]
    return Asked(
        prompt=question.pack_ids(prompt_ids),
        answers=tuple(given),
        arm="active" if picked.arm == choose.ACTIVE else "random",
        pair=(picked.first, picked.second),
        swapped=_swapped(key),
        selector=selector,
        propensity=(1.0 - share) * picked.propensity,
        value=picked.value,
        sampling=Sampling(limit=limit),
        reference=position,
        reference_logp=tuple(float(logp[one]) for one in (picked.first, picked.second)),
        group=group,
        tokenizer=digest(model.tokenizer),
    )


def selecting(model: AnsweringModel) -> str:
    """Return how pairs are chosen now.

    By `choose.EXTREMES` while evidence of the reward model's skill is what holds the policy back, since those questions
    give evidence soonest; else by the selector of the settings, or at random where that one does not pay.
    """
    chosen = model.settings
    counts = model.part("progress")["counts"]
    if chosen.choose.prove and chosen.reward.learn and improve.unproven(chosen.improve, *counts[[TRUSTED, EVIDENCE]]):
        return choose.EXTREMES
    return chosen.choose.selector if choose.pays(model.part("asking")) else "random"


def duel(
    one: Side,
    other: Side,
    prompt_ids: Ids,
    key: Key,
    *,
    group: str = "",
    position: str = "",
    propensity: float = 1.0,
) -> Asked:
    """Return a question that compares two policies: one answer of each to a prompt, in random order.

    Which side the first answer is shown on is random as well. Equal answers decide nothing, so both are drawn again, up
    to three times. The reward model of `one` says what the judgement is worth. `propensity` is the probability of a
    duel, and each order has half of it. Raises `InputError` for a prompt that is too long.
    """
    limit, sides = one.model.settings.pairs.answer_tokens, [one, other]
    if np.random.default_rng([*key, _ORDER]).random() < 0.5:
        sides.reverse()
    for turn in range(_TRIES):
        seeds = np.random.default_rng([*key, _DUEL, turn]).integers(2**62, size=2).tolist()
        found = [
            sample(each.model, prompt_ids, seed=seed, limit=limit)[0] for each, seed in zip(sides, seeds, strict=True)
        ]
        if found[0].ids != found[1].ids:
            break
    logp, _, draws = _read(one.model, prompt_ids, found, group)
    return Asked(
        prompt=question.pack_ids(prompt_ids),
        answers=tuple(
            answer(each.model, drawn, version=each.version, uid=each.uid, seed=seed)
            for each, drawn, seed in zip(sides, found, seeds, strict=True)
        ),
        arm="duel",
        pair=(0, 1),
        swapped=_swapped(key),
        selector="duel",
        propensity=0.5 * propensity,
        value=float(choose.information(draws)[0, 1]),
        sampling=Sampling(limit=limit),
        reference=position,
        reference_logp=(float(logp[0]), float(logp[1])),
        group=group,
        tokenizer=digest(one.model.tokenizer),
    )


def known(
    model: AnsweringModel, prompt_ids: Ids, better: str, worse: str, key: Key, *, version: str = "", position: str = ""
) -> Asked:
    """Return a gold question: two given texts, of which the first is known to be better. Which side is random.

    Raises `InputError` for a text without tokens, or with more than an answer may have.
    """
    given = [typed(model, prompt_ids, text) for text in (better, worse)]
    found = [Sampled(tuple(question.unpack_ids(one.ids).tolist()), (), (), one.finish == "length") for one in given]
    logp, _, draws = _read(model, prompt_ids, found, "")
    return Asked(
        prompt=question.pack_ids(prompt_ids),
        answers=tuple(structs.replace(one, version=version) for one in given),
        arm="gold",
        pair=(0, 1),
        swapped=_swapped(key),
        selector="gold",
        value=float(choose.information(draws)[0, 1]),
        reference=position,
        reference_logp=(float(logp[0]), float(logp[1])),
        tokenizer=digest(model.tokenizer),
    )


def repeated(pair: Asked, id: str, chosen: int, key: Key) -> Asked:
    """Return the question that asks the pair `id` once more, of the annotator that preferred `chosen` in it."""
    return structs.replace(
        pair, arm="again", swapped=_swapped(key), selector="again", propensity=1.0, repeats=id, before=chosen
    )


def typed(model: AnsweringModel, prompt_ids: Ids, text_: str, version: str = "typed") -> SampledAnswer:
    """Return a text that the policy has not written as an answer: its tokens, and what the policy makes of them.

    Raises `InputError` for a text with more tokens than an answer may have.
    """
    ids = [int(one) for one in model.tokenizer.encode(text_, add_special_tokens=False)] + list(model.stop[:1])
    most = model.settings.pairs.answer_tokens
    if len(ids) > most:
        raise InputError(f"answer: got {len(ids)} tokens; expected at most {most} (schema.answer_tokens). Shorten it")
    logp, _ = passes.token_logprobs(model.policy.module, [list(prompt_ids)], [ids])
    return SampledAnswer(
        ids=question.pack_ids(ids),
        logp=question.pack_logp(logp[0].detach().clamp(max=0.0).tolist()),
        finish="stop" if model.stop else "length",
        text=text_,
        version=version,
    )


def transcribed(
    model: AnsweringModel,
    prompt_ids: Ids,
    answers: Sequence[str | Sequence[text.Message]],
    key: Key,
    *,
    repeated: bool = False,
    group: str = "",
) -> tuple[Asked, int]:
    """Return a question about two written answers, better first, and the place of the better one in the pair.

    Their order is random, so that the first place says nothing. The log-probabilities of tokens are unknown, and
    recorded as 0. `repeated` marks a pair that was read before, from which the policy alone learns.
    """
    ids = [text.written(model.tokenizer, one, model.stop) for one in answers]
    if better := int(np.random.default_rng([*key, _ORDER]).random() < 0.5):
        ids.reverse()
    given = tuple(
        SampledAnswer(
            ids=question.pack_ids(one),
            logp=question.pack_logp([0.0] * len(one)),
            finish="stop" if model.stop else "length",
            text=spelled(model, one),
        )
        for one in ids
    )
    pair = Asked(
        prompt=question.pack_ids(prompt_ids),
        answers=given,
        arm="repeat" if repeated else "file",
        pair=(0, 1),
        swapped=_swapped(key),
        group=group,
        tokenizer=digest(model.tokenizer),
    )
    return pair, better


def expected_win(
    candidate: AnsweringModel, champion: AnsweringModel, prompts: Sequence[Ids], key: Key, *, samples: int = 4
) -> float:
    """Return the win of a candidate against the champion that the candidate's reward model expects, ties half.

    The mean, over `prompts` and `samples` answers of each to each of them, of the logistic function of the difference
    in reward; 1/2 without prompts. Prompts whose group is unknown count as of none.
    """
    wins = []
    for number, prompt in enumerate(prompts):
        seeds = np.random.default_rng([*key, number]).integers(2**62, size=2).tolist()
        found = [
            sample(model, prompt, samples, seed=seed) for model, seed in zip((candidate, champion), seeds, strict=True)
        ]
        _, _, draws = _read(candidate, prompt, [*found[0], *found[1]], "")
        ours, theirs = np.split(draws.mean(1), 2)
        wins.append(float((0.5 + 0.5 * np.tanh(0.5 * (ours[:, None] - theirs[None]))).mean()))
    return float(np.mean(wins)) if wins else 0.5


def nominated(
    candidate: AnsweringModel, champion: AnsweringModel, prompts: Sequence[Ids], key: Key, *, cheap: bool = False
) -> bool:
    """Return True if a candidate shall duel the champion: its reward model expects the win `choose.nominate`.

    `prompts` are the newest ones. Where judgements are `cheap`, as those of a judge or a function, it always does.
    """
    least = candidate.settings.choose.nominate
    return cheap or least <= 0.0 or expected_win(candidate, champion, prompts, key) >= least


def _read(
    model: AnsweringModel, prompt_ids: Ids, found: Sequence[Sampled], group: str
) -> tuple[Floats, Floats, Floats]:
    """Return log-probabilities of answers under the reference, (n,), and rewards: mean, (n,), and draws, (n, E)."""
    with model.policy.reference() as module:
        given = [prompt_ids] * len(found)
        read = passes.read_answers(module, given, [one.ids for one in found], layers=model.settings.reward.layers)
    number = first_come.numbers(model.part("groups"), np.array([int(columns.number(group))]))
    x = features.mapped(model.part("features"), read.features)
    mean, draws = reward.score(model.part("reward"), x, np.repeat(number, len(found)))
    return np.asarray(read.logp, np.float64), mean, draws


def _swapped(key: Key) -> bool:
    return bool(np.random.default_rng([*key, _SIDE]).random() < 0.5)


def sample(
    model: AnsweringModel,
    prompt_ids: Ids,
    n: int = 1,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    limit: int = 0,
    stop: Sequence[int] = (),
) -> list[Sampled]:
    """Return n answers of the policy to a prompt; `limit` 0 is that of the schema. Raises as `sampling.generate`."""
    return generate_many(
        model.policy.module,
        [prompt_ids],
        n,
        seeds=[seed],
        truncation=Truncation(temperature, top_p),
        limit=limit or model.settings.pairs.answer_tokens,
        stop=(*model.stop, *stop),
    )[0]


def answer(model: AnsweringModel, one: Sampled, *, version: str = "", uid: int = 0, seed: int = 0) -> SampledAnswer:
    """Return a sampled answer as the log records it."""
    return SampledAnswer(
        ids=question.pack_ids(one.ids),
        logp=question.pack_logp(one.logp),
        sent=b"" if one.sent == one.logp else question.pack_logp(one.sent),
        finish="length" if one.cut else "stop",
        text=spelled(model, one.ids),
        version=version,
        uid=uid,
        seed=seed,
    )


def spelled(model: AnsweringModel, ids: Ids) -> str:
    """Return the text of an answer, without its stop token; "" for a model without a tokenizer."""
    if model.tokenizer is None:
        return ""
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True))


def digest(tokenizer: Any) -> str:
    """Return a digest of a tokenizer, 16 characters: of its vocabulary and its chat template; "" for none."""
    if tokenizer is None:
        return ""
    if tokenizer not in _DIGESTS:
        content = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template or ""]
        _DIGESTS[tokenizer] = hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
    return _DIGESTS[tokenizer]


_DIGESTS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # a large vocabulary takes a tenth of a second
