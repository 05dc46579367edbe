"""Questions: sample candidate answers to a prompt, choose two of them, and record how that came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from everlearn.families.preference import choose, features, first_come, reward, text
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.sampling import Sampled, Truncation, generate_many
from everlearn.families.preference.settings import Settings
from everlearn.families.preference.text import Ids
from everlearn.records import Arrays
from everlearn.schema import asked as question
from everlearn.schema import pairs as columns
from everlearn.schema.asked import Asked, SampledAnswer, Sampling

Key = tuple[int, ...]


class AnsweringModel(Protocol):
    """The parts of a preference model that write answers and compare them; `stop` are the tokens that end an answer."""

    settings: Settings
    policy: Policy
    tokenizer: Any
    stop: tuple[int, ...]

    def part(self, name: str) -> Arrays:
        """Return the arrays of one part, such as "reward"."""
        ...


_CANDIDATES, _SIDE = range(2)  # last part of the key of random numbers


def ask(
    model: AnsweringModel, prompt_ids: Ids, key: Key, *, group: str = "", version: str = "", position: str = ""
) -> Asked:
    """Return a question about a prompt: candidates of the policy and of the reference, and which two to compare.

    `key` seeds everything that is random, for instance (seed, number of the question). The pair is chosen from the
    posterior draws of the reward model (`choose.pair`); which side the first answer is shown on is random. `version`
    and `position` name what answered and what the reference is. Raises `InputError` for a prompt that is too long.
    """
    chosen, limit = model.settings.choose, model.settings.pairs.answer_tokens
    theirs = min(round(chosen.candidates * chosen.reference), chosen.candidates - 1)
    seeds = np.random.default_rng([*key, _CANDIDATES]).integers(2**62, size=2).tolist()
    found = sample(model, prompt_ids, chosen.candidates - theirs, seed=seeds[0], limit=limit)
    with model.policy.reference() as module:
        if theirs:
            found += generate_many(module, [prompt_ids], theirs, seeds=seeds[1:], limit=limit, stop=model.stop)[0]
        given = [prompt_ids] * len(found)
        read = text.read_answers(module, given, [one.ids for one in found], layers=model.settings.reward.layers)
    number = first_come.numbers(model.part("groups"), np.array([int(columns.number(group))]))
    x = features.mapped(model.part("features"), read.features)
    _, draws = reward.score(model.part("reward"), x, np.repeat(number, len(found)))
    picked = choose.pair(draws, chosen.selector, key, chosen.random)
    pair = picked.first, picked.second
    return Asked(
        prompt=question.pack_ids(prompt_ids),
        answers=tuple(answer(model, one, version=version, seed=seeds[0]) for one in found),
        arm="active" if picked.arm == choose.ACTIVE else "random",
        pair=pair,
        swapped=bool(np.random.default_rng([*key, _SIDE]).random() < 0.5),
        selector=chosen.selector,
        propensity=picked.propensity,
        value=picked.value,
        sampling=Sampling(limit=limit),
        reference=position,
        reference_logp=tuple(float(read.logp[one]) for one in pair),
        group=group,
        tokenizer=digest(model.tokenizer),
    )


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
