"""The thread that computes: it takes up new versions between batches, answers chats together, and asks for pairs.

One batch is one model. Chats come before pairs; those that wait, and are sampled alike, are one batch. An answer does
not depend on its batch, as its random numbers belong to its seed (see `families/preference/sampling`).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from everlearn import model
from everlearn.app.generator.openai_records import TokenLogprob
from everlearn.app.generator.writing import AnswerWriter
from everlearn.errors import EverlearnError, InputError
from everlearn.families.preference import PreferenceModel
from everlearn.families.preference.sampling import Truncation, stream
from everlearn.families.preference.summary import ROUNDS
from everlearn.model import Model, Spec
from everlearn.serve.snapshot import Answering, Reader
from everlearn.version.codec import canonical

log = logging.getLogger("everlearn.generator")

ROWS = 32  # answers that are computed together
WAIT = 0.2  # seconds without a job after which the thread looks for a new version

Plain = str | Sequence[Mapping[str, str]]


class ServedPolicy(NamedTuple):
    """The champion at one moment; `rounds` counts the rounds of steps of its policy, and `rival` duels it."""

    version: str
    position: int
    model: PreferenceModel
    rounds: int
    uid: int = 0
    rival: Answering | None = None


class Written(NamedTuple):
    """Some new text of answer number `place`, the log-probabilities of its tokens if wanted, and the whole so far."""

    place: int
    text: str
    logprobs: list[TokenLogprob] | None
    writer: AnswerWriter


class Began(NamedTuple):
    """A chat was taken up: the policy that answers, and the tokens of the prompt."""

    policy: ServedPolicy
    prompt: list[int]


@dataclass(slots=True, eq=False)
class Chat:
    """A prompt to answer n times.

    `post` gets `Began`, then `Written` whenever some text is new and once more at the end of each answer, then None; or
    an exception instead. It is called in the device's thread. Set `cancelled` to stop.
    """

    prompt: Plain
    n: int
    seed: int
    truncation: Truncation
    limit: int
    stops: tuple[str, ...]
    top: int | None
    post: Callable[[Began | Written | Exception | None], None]
    cancelled: bool = False
    writers: list[AnswerWriter] = field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        """True while some answer is not whole."""
        return not self.cancelled and any(writer.finish is None for writer in self.writers)


@dataclass(slots=True, eq=False)
class Call:
    """Something else to compute with the champion, after all waiting chats; `post` gets the result or the error."""

    work: Callable[[ServedPolicy], Any]
    post: Callable[[Any], None]


class Device:
    """The thread, and what waits for it. `start` it, and `stop` it at the end."""

    def __init__(self, reader: Callable[[], Reader]) -> None:
        self._make_reader = reader
        self._chats: deque[Chat] = deque()
        self._calls: deque[Call] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._policy: ServedPolicy | None = None
        self._source: object = None
        self._thread = threading.Thread(target=self._run, name="everlearn-device", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present batch, and wait for that."""
        self._stopping.set()
        for one in self._chats:
            one.cancelled = True
        self._bell.put(None)
        self._thread.join()

    def chat(self, one: Chat) -> None:
        """Queue a chat."""
        self._chats.append(one)
        self._bell.put(None)

    def call(self, one: Call) -> None:
        """Queue other work."""
        self._calls.append(one)
        self._bell.put(None)

    @property
    def policy(self) -> ServedPolicy | None:
        """The newest policy that was taken up; None before the first."""
        return self._policy

    @property
    def rounds(self) -> int:
        """The rounds of steps of the newest policy that was taken up."""
        return self._policy.rounds if self._policy is not None else 0

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reader = self._make_reader()
        while not self._stopping.is_set():
            try:
                self._bell.get(timeout=WAIT)
            except queue.Empty:
                self._refresh(reader)
            while self._chats and not self._stopping.is_set():
                self._answer(self._batch(), reader)
            if self._calls and not self._stopping.is_set():
                one = self._calls.popleft()
                try:
                    one.post(one.work(self._current(reader)))
                except Exception as error:
                    one.post(error)
                self._bell.put(None)

    def _refresh(self, reader: Reader) -> None:
        """Take up a new version while there is nothing else to do."""
        try:
            self._current(reader)
        except EverlearnError as error:
            log.warning("no version can be taken up: %s", error)

    def _current(self, reader: Reader) -> ServedPolicy:
        """Return the newest published policy. Raises BlobError while there is none."""
        snapshot = reader.current()
        if snapshot is not self._source or self._policy is None:
            held = cast(PreferenceModel, snapshot.champion.model)
            rounds = int(held.part("progress")["counts"][ROUNDS])
            champion = snapshot.champion
            self._policy = ServedPolicy(champion.version, snapshot.position, held, rounds, champion.uid, snapshot.rival)
            self._source = snapshot
        return self._policy

    def _batch(self) -> list[Chat]:
        """Take the chat that has waited longest, and others that can be computed with it."""
        first = self._chats.popleft()
        alike = [one for one in list(self._chats) if (one.n, one.truncation) == (first.n, first.truncation)]
        chosen = [first, *alike[: max(0, ROWS // first.n - 1)]]
        for one in chosen[1:]:
            self._chats.remove(one)
        return [one for one in chosen if not one.cancelled]

    def _answer(self, chats: Sequence[Chat], reader: Reader) -> None:
        ready: list[Chat] = []
        prompts: list[list[int]] = []
        try:
            policy = self._current(reader)
            for one in chats:
                try:
                    ids = policy.model.prompt_ids(one.prompt)
                    _check_room(policy.model, len(ids), one.limit)
                except InputError as error:
                    one.post(error)
                    continue
                tokenizer, logprobs = policy.model.tokenizer, one.top is not None
                one.writers = [AnswerWriter(tokenizer, one.stops, one.limit, logprobs) for _ in range(one.n)]
                one.post(Began(policy, ids))
                ready.append(one)
                prompts.append(ids)
            if ready:
                self._write(policy.model, ready, prompts)
        except Exception as error:
            for one in ready or chats:
                one.post(error)

    def _write(self, held: PreferenceModel, chats: Sequence[Chat], prompts: Sequence[list[int]]) -> None:
        first = chats[0]
        steps = stream(
            held.policy.module,
            prompts,
            first.n,
            seeds=[one.seed for one in chats],
            truncation=first.truncation,
            limit=max(one.limit for one in chats),
            stop=held.stop,
            top=max(one.top or 0 for one in chats),
        )
        left = list(chats)
        for rows, tokens, logp, sent, ended, top in steps:
            for at, row in enumerate(rows):
                one, index = chats[row // first.n], row % first.n
                writer = one.writers[index]
                if writer.finish is None and not one.cancelled:
                    likeliest = top[at][: one.top or 0]
                    text = writer.add(tokens[at], logp[at], sent[at], ended[at], likeliest)
                    if text or writer.finish:
                        one.post(Written(index, text, writer.taken(), writer))
            for one in [one for one in left if not one.unfinished]:
                left.remove(one)
                one.post(None)
            if not left or self._stopping.is_set():
                break
        for one in left:
            one.post(None)


def builder() -> Callable[[Spec], Model]:
    """Return a function that builds models of a spec; from the second on they are copies, which share frozen weights.

    A new version is taken up without loading anything again.
    """
    known: dict[str, Model] = {}

    def build(spec: Spec) -> Model:
        key = canonical(spec)
        known[key] = known.get(key) or model.build(spec)
        return copy(known[key])

    return build


def _check_room(held: PreferenceModel, prompt: int, limit: int) -> None:
    """Raise InputError for a prompt that leaves no room for the answer in the model's context."""
    room = getattr(getattr(held.policy.module, "config", None), "max_position_embeddings", None)
    if room is not None and prompt + limit > room:
        raise InputError(
            f"the prompt has {prompt} tokens, and the answer up to {limit}; the model has room for {room}. Shorten the "
            "prompt, or lower max_tokens"
        )
