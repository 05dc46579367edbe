"""The payload of a prediction that asks for a preference: the answers, token by token, and how they were sampled.

Token ids and log-probabilities travel as bytes, little-endian int32 and float32, which JSON holds as base64. They are
the very tokens that were sampled: text is never tokenised again, and a cut answer has no stop token at its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Singles

Arm = Literal["chat", "random", "active", "duel", "gold", "again", "file", "repeat"]

ABOVE_ZERO = 1e-3  # a log-probability may exceed 0 by rounding, and by no more


class Sampling(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The distribution that answers were sampled from; `limit` is the most tokens of an answer (0: unknown)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    limit: int = 0


class SampledAnswer(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One sampled answer.

    `ids` holds its tokens, with the stop token if that was sampled. `logp` holds their log-probabilities under the
    policy at temperature 1, and `sent` those under the distribution that was sampled from, empty where it is the same
    (see `pack_ids`, `pack_logp`). `finish` is "length" for an answer that a limit cut. `version` is that of the policy,
    `uid` the contestant (0: the version says it all), `seed` the key of its random numbers.
    """

    ids: bytes
    logp: bytes
    finish: Literal["stop", "length"]
    sent: bytes = b""
    text: str = ""
    version: str = ""
    uid: int = 0
    seed: int = 0


class Asked(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A question to an annotator: a prompt, its answers, which two of them are compared, and why these.

    `pair` holds the places of the two answers, first and second, among `answers`; it is empty on the arm "chat", whose
    one answer is rated alone. `swapped` is true where the first of the pair was shown on the right. `propensity` is the
    probability of this arm and pair, `value` what the judgement was thought to be worth. `reference_logp` holds, for
    the answers in the order of `pair`, the summed log-probabilities under the version `reference` (empty: unknown).
    `group` names what drifts together ("": none), `tokenizer` is a digest. `aborted` is true where the client went away
    before the answer was whole: the tokens are those sampled until then. On the arm "again", `repeats` is the id of the
    pair that is asked once more, and `before` the place of the answer that its annotator preferred then (-1: none).
    """

    prompt: bytes
    answers: tuple[SampledAnswer, ...]
    arm: Arm
    pair: tuple[int, ...] = ()
    swapped: bool = False
    selector: str = ""
    propensity: float = 1.0
    value: float = 0.0
    sampling: Sampling = Sampling()
    reference: str = ""
    reference_logp: tuple[float, ...] = ()
    group: str = ""
    tokenizer: str = ""
    aborted: bool = False
    repeats: str = ""
    before: Literal[-1, 0, 1] = -1


def judged(question: Asked) -> tuple[SampledAnswer, ...]:
    """Return the two answers of the pair, first and second; the one answer on the arm "chat"."""
    return tuple(question.answers[place] for place in question.pair) or question.answers


def pack_ids(ids: Sequence[int] | NDArray[Any]) -> bytes:
    """Return token ids as the bytes of `Asked.prompt` and `SampledAnswer.ids`.

    Raises `InputError` for an id beyond int32.

    >>> pack_ids([1, 258]).hex(), unpack_ids(pack_ids([1, 258])).tolist()
    ('0100000002010000', [1, 258])
    """
    whole = np.asarray(ids, np.int64) if len(ids) else np.zeros(0, np.int64)
    if whole.size and not 0 <= whole.min() <= whole.max() < 1 << 31:
        raise InputError(
            f"token ids: got {whole.min()} to {whole.max()}; expected 0 to 2147483647. Check the tokenizer"
        )
    return whole.astype("<i4").tobytes()


def pack_logp(logp: Sequence[float] | Singles) -> bytes:
    """Return log-probabilities as the bytes of `SampledAnswer.logp` and `SampledAnswer.sent`; float32."""
    return np.asarray(logp, "<f4").tobytes()


def unpack_ids(data: bytes) -> NDArray[np.int32]:
    """Return token ids, int32 (n,). Raises `InputError` for bytes that are no whole numbers of 4 bytes."""
    _check_whole(data, "token ids")
    return np.frombuffer(data, "<i4").astype(np.int32)


def unpack_logp(data: bytes) -> Singles:
    """Return log-probabilities, float32 (n,). Raises `InputError` for bytes that are no numbers of 4 bytes."""
    _check_whole(data, "log-probabilities")
    return np.frombuffer(data, "<f4").astype(np.float32)


def encode(question: Asked) -> dict[str, Any]:
    """Return the payload of a prediction that asks this, as plain values. Raises `InputError` as `decode` does.

    >>> one = SampledAnswer(ids=pack_ids([7, 2]), logp=pack_logp([-0.5, -1.0]), finish="stop")
    >>> encode(Asked(prompt=pack_ids([5]), answers=(one,), arm="chat"))["prompt"]
    'BQAAAA=='
    """
    check(question)
    payload: dict[str, Any] = msgspec.to_builtins(question)
    return payload


def decode(payload: Mapping[str, Any]) -> Asked:
    """Return what the payload of a prediction asks. Raises `InputError` for one that contradicts itself."""
    try:
        question = msgspec.convert(dict(payload), Asked)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the payload asks for no preference: {error}; expected the result of question.encode"
        ) from error
    check(question)
    return question


def check(question: Asked) -> None:
    """Raise `InputError` if a question contradicts itself."""
    count, single = len(question.answers), question.arm == "chat"
    if single and (count != 1 or question.pair):
        raise InputError(
            f"answers: got {count}, with the pair {question.pair}, on the arm 'chat'; expected one answer and no pair. "
            "Name the arm that the pair was chosen by"
        )
    places = sorted(set(question.pair))
    if not single and (len(places) != 2 or len(question.pair) != 2 or not 0 <= places[0] < places[1] < count):
        raise InputError(
            f"pair: got {question.pair} of {count} answers; expected the places of two different answers, from 0"
        )
    if not 0.0 < question.propensity <= 1.0:
        raise InputError(
            f"propensity: got {question.propensity}; expected a probability above 0, that of this arm and pair"
        )
    if not (math.isfinite(question.value) and all(map(math.isfinite, question.reference_logp))):
        raise InputError(
            f"value and reference_logp: got {question.value} and {question.reference_logp}; expected finite numbers. "
            "Leave out those that are unknown"
        )
    if len(question.reference_logp) not in (0, 1 if single else 2):
        raise InputError(
            f"reference_logp: got {len(question.reference_logp)} sums; expected one for each judged answer, or none"
        )
    if not question.prompt:
        raise InputError("prompt: got no tokens; expected at least one, such as the one that begins a text")
    _check_ids(question.prompt, "prompt")
    for place, one in enumerate(question.answers):
        _check_answer(one, f"answers[{place}]")


def _check_answer(one: SampledAnswer, where: str) -> None:
    _check_ids(one.ids, where)
    if not one.ids:
        raise InputError(f"{where}: got no tokens; expected at least one, be it the stop token")
    for name, data in (("logp", one.logp), ("sent", one.sent)):
        if name == "sent" and not data:
            continue
        logp = unpack_logp(data)
        if len(data) != len(one.ids):
            raise InputError(
                f"{where}.{name}: got {len(logp)} numbers; expected {len(one.ids) // 4}, one for each token"
            )
        if not (logp <= ABOVE_ZERO).all() or not np.isfinite(logp).all():
            raise InputError(
                f"{where}.{name}: got numbers up to {logp.max()}; expected finite log-probabilities, at most 0"
            )


def _check_ids(data: bytes, where: str) -> None:
    ids = unpack_ids(data)
    if len(ids) and ids.min() < 0:
        raise InputError(f"{where}: got the token {ids.min()}; expected ids from 0. Check the tokenizer")


def _check_whole(data: bytes, what: str) -> None:
    if len(data) % 4:
        raise InputError(
            f"{what}: got {len(data)} bytes; expected 4 for each token. See question.pack_ids, question.pack_logp"
        )
