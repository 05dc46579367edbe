"""POST /v1/feedback: what users did with the answers of chats, as rewards and as pairs with a preference.

A thumb, a rating or an acceptance rates one answer. An edit, a retry or a choice compares two: that pair becomes a
prediction, and its preference is logged with it. Its arm is "active", since it was not drawn at random. Its selector is
"implicit/...", since no selector chose it either: what selectors are worth is not measured on such pairs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app.admin.http import uncached
from everlearn.app.generator.chat import whole
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.device import ServedPolicy
from everlearn.app.generator.openai_records import ApiError
from everlearn.client.label_records import ChatFeedback, ChatFeedbackReply
from everlearn.errors import InputError
from everlearn.families.preference import asking, implicit
from everlearn.families.preference.implicit import PairSignal, ShownAnswer
from everlearn.feedback import admission
from everlearn.records import Payload, Prediction, Preference, Reward
from everlearn.schema import pairs as columns
from everlearn.schema import question
from everlearn.schema.question import Asked

CHOSEN, RATING = "implicit/chosen", "implicit/rating"


async def feedback(context: GeneratorContext, request: Request) -> Response:
    """POST /v1/feedback"""
    try:
        given = msgspec.json.decode(await whole(request), type=ChatFeedback)
    except msgspec.ValidationError as error:
        raise ApiError(str(error)) from error
    answers = await asyncio.to_thread(_answers, context, given)
    rewards, signals = _signals(given, answers)
    if not rewards and not signals:
        raise ApiError("the body: got no signal; expected up, reward, chosen, accepted, edit or retried")
    payloads: list[Payload] = [_checked(context, one) for one in rewards]
    if signals:
        payloads += await context.compute(lambda policy: _pairs(context, policy, answers, signals))
    end = context.log.end()
    positions = await context.append(payloads)
    judged = [at for at, one in zip(positions, payloads, strict=True) if not isinstance(one, Prediction)]
    return uncached(ChatFeedbackReply(len(judged), sum(at <= end for at in judged)))


def _answers(context: GeneratorContext, given: ChatFeedback) -> dict[str, Prediction]:
    """Return the predictions of all answers that are compared, by id; the one that is judged comes last.

    Raises UnknownId for one that the log does not hold, InputError for answers to different messages.
    """
    own = _name(given.id, given.index)
    names = [*given.retried]
    if given.chosen:
        names += [name for name in _siblings(context, given.id) if name != own]
    found: dict[str, Prediction] = {}
    for name in (*dict.fromkeys(names), own):
        one = admission.prediction(context.log, name)
        if one is None:
            raise admission.unknown(name)
        if question.decode(one.payload).arm != "chat":
            raise InputError(f"id: got {name!r}, which asks for a choice between two answers; expected a chat reply")
        found[name] = one
    prompts = {one.payload["prompt"] for one in found.values()}
    if len(prompts) > 1:
        raise InputError("retried: got replies to different messages; expected replies to the same ones")
    return found


def _siblings(context: GeneratorContext, id: str) -> list[str]:
    """Return the ids of all answers of a reply."""
    found: list[str] = []
    while admission.prediction(context.log, name := _name(id, len(found))) is not None:
        found.append(name)
    return found


def _name(id: str, index: int) -> str:
    return id if index == 0 else f"{id}/{index}"


def _signals(given: ChatFeedback, answers: dict[str, Prediction]) -> tuple[list[Reward], list[PairSignal]]:
    """Return the rewards and the pairs that follow from what a user did."""
    own = _name(given.id, given.index)
    shown = {name: ShownAnswer(name, str(one.value)) for name, one in answers.items()}
    seen = [shown[name] for name in dict.fromkeys(given.retried) if name != own] + [shown[own]]
    prompt = str(answers[own].features.get("prompt", ""))
    taken = given.accepted or given.edit is not None or bool(given.retried)
    up = [None] * (len(seen) - 1) + [given.up]
    found = implicit.signals(prompt, seen, accepted_at=len(seen) - 1 if taken else None, edit=given.edit, up=up)
    rewards = [one for one in found if isinstance(one, Reward)]
    pairs = [one for one in found if isinstance(one, PairSignal)]
    if given.reward is not None:
        rewards.append(Reward(own, given.reward, source=given.source or RATING))
    if given.chosen:
        compared = [*(one for name, one in shown.items() if name != own), shown[own]]
        chosen = implicit.retried(prompt, compared, len(compared) - 1)
        pairs += [
            msgspec.structs.replace(
                one,
                pair=msgspec.structs.replace(one.pair, id=one.pair.id.replace("/retry/", "/chosen/")),
                source=given.source or CHOSEN,
            )
            for one in chosen
        ]
    return rewards, pairs


def _checked(context: GeneratorContext, one: Reward) -> Payload:
    return admission.feedback(context.admission, one.id, None, one.value, None, one.weight, one.source)


def _pairs(
    context: GeneratorContext, policy: ServedPolicy, answers: dict[str, Prediction], signals: Sequence[PairSignal]
) -> list[Payload]:
    """Return the predictions and preferences of pairs; a pair that the log holds already is not made again."""
    payloads: list[Payload] = []
    texts = {str(one.value): one for one in answers.values()}
    for signal in signals:
        pair, id = signal.pair, signal.pair.id
        sampled = {text: question.decode(one.payload).answers[0] for text, one in texts.items()}
        prompt = next(iter(answers.values())).payload["prompt"]
        if pair.second not in sampled:  # an edit, which was never sampled
            before = question.unpack_ids(msgspec.convert(prompt, bytes)).tolist()
            sampled[pair.second] = asking.typed(policy.model, before, pair.second)
            id += "-" + hashlib.blake2b(pair.second.encode(), digest_size=4).hexdigest()
        if admission.prediction(context.log, id) is None:
            made = Asked(
                prompt=msgspec.convert(prompt, bytes),
                answers=(sampled[pair.first], sampled[pair.second]),
                pair=(0, 1),
                arm="active",
                selector=columns.IMPLICIT + signal.source.removeprefix(columns.IMPLICIT),
                tokenizer=asking.digest(policy.model.tokenizer),
            )
            payloads.append(context.prediction(made, policy, pair.prompt, id=id))
        payloads.append(Preference(id, signal.chosen, source=signal.source))
    return payloads
