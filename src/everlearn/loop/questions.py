"""Questions of a loop in one process: pairs that wait for a judgement, and prompts for new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec
import numpy as np

from everlearn.errors import InputError
from everlearn.events import Log
from everlearn.feedback.admission import prediction
from everlearn.feedback.pending import PendingPredictions
from everlearn.loop.fold import Fold
from everlearn.records import Prediction, Preference
from everlearn.schema import Reading, question
from everlearn.schema.question import Asked
from everlearn.serve import duels
from everlearn.serve.snapshot import Answering
from everlearn.stream.preferences import ChatTurn
from everlearn.stream.prompts import Prompt, read_prompts, written

Words = str | Sequence[ChatTurn | Mapping[str, str]] | Prompt


class Asks(Protocol):
    """A model that writes answers: an optional part of a family (see `everlearn.model.Model`)."""

    def ask(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        key: tuple[int, ...],
        *,
        group: str = "",
        version: str = "",
        uid: int = 0,
        rival: tuple[Any, int, str] | None = None,
    ) -> Asked:
        """Return a question about a prompt, text or chat messages, with answers of the model; `key` seeds all draws.

        `version` and `uid` name this contestant. Some questions are duels with the `rival`: its model, uid and version.
        """
        ...


class Transcribes(Protocol):
    """A model that takes answers that others wrote: an optional part of a family."""

    def transcribe(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        answers: Sequence[str | Sequence[Mapping[str, str]]],
        key: tuple[int, ...],
        *,
        repeated: bool = False,
        group: str = "",
    ) -> tuple[Asked, int]:
        """Return a question about two written answers, better first, and the place of the better one in its pair.

        `repeated` marks a pair that was read before; `key` seeds the order of the answers.
        """
        ...


class Questions:
    """The pairs shown to each annotator since the loop was opened; `path` is the file of prompts, "" without one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._prompts: tuple[Prompt, ...] = ()
        self._shown: dict[str, set[str]] = {}  # annotator -> ids

    def waiting(self, pending: PendingPredictions, log: Log, annotator: str) -> Prediction | None:
        """Return the oldest pair that waits for a judgement and that this annotator has not seen; None without one."""
        shown, source = self._shown.setdefault(annotator, set()), f"people/{annotator}"
        for one in pending:
            if one.id in shown or (found := prediction(log, one.id)) is None or not found.payload.get("pair"):
                continue
            before = (event.payload for event in log.about(one.id))
            if not any(isinstance(given, Preference) and given.source == source for given in before):
                return found
        return None

    def drawn(self, prompts: Sequence[Words], key: tuple[int, ...]) -> Prompt:
        """Return one of the prompts, or of those of the file, at random. Raises InputError where there are none."""
        if not prompts and not self._path:
            raise InputError("prompts: got none; expected some, or set `prompts` to a file of them")
        if not prompts and not self._prompts:
            self._prompts = read_prompts(self._path)
        among: Sequence[Any] = prompts or self._prompts
        return _prompt(among[int(np.random.default_rng([*key, 2]).integers(len(among)))])

    def shown(self, pair: Prediction, annotator: str) -> Prediction:
        """Note that an annotator sees a pair, and return it."""
        self._shown.setdefault(annotator, set()).add(pair.id)
        return pair


def ask(
    champion: Answering,
    reading: Reading,
    prompt: Words,
    key: tuple[int, ...],
    group: str = "",
    rival: Answering | None = None,
) -> tuple[Asked, tuple[float, ...]]:
    """Return a question about a prompt, answered by the champion, and what its reward model predicts.

    That is the probability that the second, and that the first answer is preferred. Some questions are duels with the
    `rival`, where there is one. Raises InputError as `Asks.ask`
    does, and for a pair that is longer than the schema allows.
    """
    one = _prompt(prompt)
    model = _asks(champion.model)
    other = None if rival is None else (rival.model, rival.uid, rival.version)
    named = group or one.group
    pair = model.ask(plain(one), key, group=named, version=champion.version, uid=champion.uid, rival=other)
    return pair, predicted(champion, reading, pair)


def predicted(champion: Answering, reading: Reading, pair: Asked) -> tuple[float, ...]:
    """Return the probabilities that the second, and that the first answer of a pair is preferred.

    Raises InputError for a pair that is longer than the schema allows.
    """
    made = Prediction("", {}, "", (), "", payload=question.encode(pair))
    return tuple(champion.model.predict(reading.read([made]))[0].tolist())


def plain(given: Words) -> str | list[dict[str, str]]:
    """Return a prompt as models take it: text, or messages."""
    words = _prompt(given).prompt
    return words if isinstance(words, str) else [{"role": turn.role, "content": turn.content} for turn in words]


def rival(fold: Fold) -> Answering | None:
    """Return the contestant that duels the champion, if there is one; see `everlearn.serve.duels`."""
    other = duels.rival(fold.roster) if fold.encoder.late else None
    return None if other is None else Answering(other.version, other.model, uid=other.uid)


def text(prompt: Words) -> str:
    """Return a prompt as the log records it."""
    return written(_prompt(prompt).prompt)


def transcribe(
    champion: Answering, prompt: Words, answers: Sequence[Words], key: tuple[int, ...], repeated: bool = False
) -> tuple[Asked, int]:
    """Return a question about two written answers, better first, and the place of the better one in its pair.

    Raises InputError for texts without tokens or with too many, and as `check_takes_texts`.
    """
    check_takes_texts(champion)
    taker = cast(Transcribes, champion.model)
    return taker.transcribe(plain(prompt), [plain(one) for one in answers], key, repeated=repeated)


def check_takes_texts(champion: Answering) -> None:
    """Raise InputError for a model that cannot take any text that others wrote."""
    model: Any = champion.model
    if not callable(getattr(model, "transcribe", None)):
        raise InputError(
            f"model: got a {type(model).__name__}, which takes no texts of others; expected a family that does, such "
            'as "preference". Record the tokens with loop.record(pair, features)'
        )
    if getattr(model, "tokenizer", "") is None:
        raise InputError("tokenizer: got none; expected one that turns texts into tokens. Set model.tokenizer")


def _asks(model: object) -> Asks:
    if not callable(getattr(model, "ask", None)):
        raise InputError(
            f"model: got a {type(model).__name__}, which writes no answers; expected a family that does, such as "
            '"preference". Record answers of another model with loop.record(pair, features)'
        )
    return cast(Asks, model)


def _prompt(given: Words) -> Prompt:
    """Return words as a prompt. Raises InputError for messages without a role or a content."""
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        return Prompt(given)
    try:
        return Prompt(tuple(msgspec.convert(msgspec.to_builtins(turn), ChatTurn) for turn in given))
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(f"prompt: {error}; expected text, or messages with a role and a content") from error
