"""The text of an answer while its tokens are sampled: what may be sent, and where a stop text ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everlearn.app.generator.openai_records import Finish, TokenLogprob, TopLogprob
from everlearn.families.preference.sampling import Sampled

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # stands for a character whose last bytes are in the next token


class AnswerWriter:
    """One answer, token by token.

    It is done after the model's own stop token, before the first of the texts `stops`, or after `limit` tokens. `text`
    is the answer so far, without either. The same tokens give the same text, however they are sent.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], limit: int, logprobs: bool) -> None:
        self.text = ""
        self.finish: Finish | None = None
        self.by_model = False  # the model ended the answer itself
        self.logprobs: list[TokenLogprob] = []  # of the tokens since the last `add` that returned some text
        self._tokenizer, self._stops, self._limit, self._wanted = tokenizer, stops, limit, logprobs
        self._ids: list[int] = []
        self._logp: list[float] = []
        self._sent: list[float] = []
        self._given = 0  # characters that `add` has returned

    @property
    def tokens(self) -> int:
        """The number of tokens so far, with the stop token."""
        return len(self._ids)

    @property
    def sampled(self) -> Sampled:
        """The tokens so far; cut unless the model ended the answer itself."""
        return Sampled(tuple(self._ids), tuple(self._logp), tuple(self._sent), not self.by_model)

    def add(self, token: int, logp: float, sent: float, ended: bool, top: Sequence[tuple[int, float]] = ()) -> str:
        """Add a token, and return the text that may be sent now: text that could begin a stop text is held back."""
        self._ids.append(token)
        self._logp.append(logp)
        self._sent.append(sent)
        if self._wanted and not ended:
            alternatives = tuple(TopLogprob(*self._spelled(other, value)) for other, value in top)
            self.logprobs.append(TokenLogprob(*self._spelled(token, logp), alternatives))
        self.text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        found = [at for stop in self._stops if (at := self.text.find(stop)) >= 0]
        if found:
            self.text, self.finish = self.text[: min(found)], "stop"
        elif ended:
            self.finish, self.by_model = "stop", True
        elif len(self._ids) >= self._limit:
            self.finish = "length"
        upto = len(self.text) if self.finish else self._safe()
        new = self.text[self._given : upto]
        self._given = max(self._given, upto)
        return new

    def taken(self) -> list[TokenLogprob] | None:
        """Return the log-probabilities since the last call; None where they are not wanted."""
        held, self.logprobs = self.logprobs, []
        return held if self._wanted else None

    def _safe(self) -> int:
        """Return how many characters cannot become part of a stop text, nor change with the next token."""
        text = self.text.rstrip(_UNFINISHED)
        longest = max(
            (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
        return len(text) - longest

    def _spelled(self, token: int, logp: float) -> tuple[str, float, tuple[int, ...] | None]:
        """Return the text of one token, its log-probability, and its bytes; None for a part of a character."""
        text = str(self._tokenizer.decode([token]))
        return text, min(logp, 0.0), None if _UNFINISHED in text else tuple(text.encode())
