"""Read the verdict in the text that a judge model answers.

The template asks for a last line "Answer: A", "Answer: B" or "Answer: tie". Models also answer with a bare letter, with
JSON, in bold, in brackets or in a box, and these forms are read as well. Any other text is a skip with its reason: a
verdict is never guessed, and a text with two different verdicts has none.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Shown = Literal["A", "B", "tie", "skip"]
Choice = Literal["first", "second", "tie", "skip"]

LONGEST = 20_000  # characters at the end of an answer that are searched
KEPT = 2_000  # characters of a reason that are kept

_TIE = r"tie|tied|draw|equal|same|neither|both"
_VALUE = rf"(?:an?\s+)?(?P<tie>{_TIE})|(?:(?:answer|response|option|assistant|candidate|choice)\s+)?(?P<letter>[AB])"
_OPEN, _SHUT = r"[\s*_`\"'(\[{]*", r"[\s*_`\"')\]}]*"
_ENDS = r"(?=$|[.,;:!]|\s[-–—(]|\s(?:because|since|as)\b|\sis\s+(?!not\b)(?:\w+\s+)?(?:better|prefer|superior))"
_MARKED = re.compile(
    rf"^[#>\-+•]*{_OPEN}(?:(?:my|the|final|overall|so|therefore|thus|hence|,)\s*)*"
    r"(?:answer|verdict|choice|winner|preferred|preference|judge?ment|decision|better)"
    r"(?:\s+(?:answer|response|option|verdict|choice))?"
    rf"{_SHUT}(?::|=|\bis\b)\s*(?::\s*)?{_OPEN}(?:{_VALUE}){_SHUT}{_ENDS}",
    re.I | re.M,
)
_BARE = re.compile(rf"{_OPEN}(?:{_VALUE}){_SHUT}[.!]?{_SHUT}", re.I)
_SENTENCE = re.compile(
    rf"{_OPEN}(?:i\s+(?:prefer|choose|pick|select)\s+)?(?:the\s+)?(?:answer|response|option|assistant|candidate)?\s*"
    rf"(?P<letter>[AB]){_SHUT}\s*"
    r"(?:is\s+(?:(?:clearly|slightly|much|significantly|marginally|the|overall)\s+)*(?:better|preferred|preferable|superior)"
    r"(?:\s+(?:answer|response|option|one))?"
    rf"(?:\s+(?:than|to)\s+(?:answer|response|option|assistant|candidate)?\s*[AB]{_SHUT})?)?[.!]?{_SHUT}",
    re.I,
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*(A|B|C|tie)\s*\}|\[\[\s*(A|B|C|tie)\s*\]\]", re.I)
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.I | re.S)
_UNFINISHED = re.compile(r"<think(?:ing)?>", re.I)
_DECODER = json.JSONDecoder()
_PLACES = 256
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) sorry|i (?:cannot|can't|can not|won't|am unable|am not able)"
    r"|as an ai\b|unable to (?:judge|help|assist))",
    re.I,
)
_VERDICT_KEYS = ("answer", "verdict", "choice", "preferred", "preference", "winner", "better", "decision")
_AROUND_KEY = re.compile(r"^final_|(?<=.)_(?:answer|response|option|choice|verdict)$")
_REASON_KEYS = ("why", "reason", "rationale", "explanation", "reasoning", "analysis")


class ReadVerdict(NamedTuple):
    """What a judge answered: "A", "B", "tie" or "skip", and its reason, at most 2,000 characters."""

    choice: Shown
    why: str


def read_verdict(text: str) -> ReadVerdict:
    """Return the verdict in the answer of a judge model; "skip", with the reason, where the text holds none.

    These forms are read, after a finished <think> block is removed: JSON with a key such as "answer" or "verdict"; a
    line "Answer: A" (or "Verdict", "Choice", "Winner", "The better answer is"); "[[A]]" or a box, where C is a tie; a
    bare "A", "(A)" or "**A**" as the first or last line; "Answer A is better." as the last line. Capitals do not
    matter, Markdown around a verdict neither. The last line decides where earlier lines differ from it in the same
    form; two forms that differ are a skip.

    >>> read_verdict("B is shorter and right.\\n\\n**Answer: B**")
    ReadVerdict(choice='B', why='B is shorter and right.')
    >>> read_verdict('{"verdict": "tie", "why": "both are wrong"}')
    ReadVerdict(choice='tie', why='both are wrong')
    >>> read_verdict("I'm sorry, but I cannot compare these.").choice
    'skip'
    """
    plain = unicodedata.normalize("NFKC", text[-LONGEST:]).replace("\r\n", "\n")
    plain = _THOUGHT.sub("", plain).strip()
    if not plain:
        return ReadVerdict("skip", "the judge answered nothing")
    if _UNFINISHED.search(plain):
        return ReadVerdict("skip", "the judge was cut while it reasoned")
    structured = _structured(plain)
    if structured is not None:
        return structured
    forms: tuple[Callable[[str], Shown | None], ...] = (_marked, _boxed, _bare)
    found = {choice for form in forms if (choice := form(plain)) is not None}
    if len(found) == 1:
        return ReadVerdict(found.pop(), _reason(plain))
    if found:
        return ReadVerdict("skip", f"two verdicts in one answer: {plain[-KEPT:]}")
    return ReadVerdict("skip", f"{'the judge refused' if _REFUSAL.search(plain) else 'no verdict'}: {plain[:KEPT]}")


def _structured(text: str) -> ReadVerdict | None:
    """Return the verdict in the last JSON object with a verdict key; None where there is no such object."""
    for value in reversed(_objects(text)):
        named = {str(key).strip().lower().replace(" ", "_"): entry for key, entry in value.items()}
        keys = [key for key in named if _AROUND_KEY.sub("", key) in _VERDICT_KEYS]
        found = {_value(str(named[key])) for key in keys}
        if len(found) > 1:
            return ReadVerdict("skip", f"two verdicts in one answer: {str(value)[:KEPT]}")
        if keys:
            choice = found.pop()
            why = next((str(named[key]) for key in _REASON_KEYS if key in named), "")
            return (
                ReadVerdict(choice, why[:KEPT]) if choice else ReadVerdict("skip", f"no verdict: {str(value)[:KEPT]}")
            )
    return None


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the outermost JSON objects in a text, in order; the last 256 braces are tried."""
    found: list[dict[str, Any]] = []
    end = 0
    for match in list(re.finditer(r"\{", text))[-_PLACES:]:
        if match.start() < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        found.append(value)
    return found


def _marked(text: str) -> Shown | None:
    """Return the verdict of the last line of the form "Answer: A"."""
    matches = list(_MARKED.finditer(text))
    return _named(matches[-1]) if matches else None


def _boxed(text: str) -> Shown | None:
    """Return the verdict of the last "[[A]]" or box, where C is a tie."""
    matches = list(_BOXED.finditer(text))
    if not matches:
        return None
    letter = (matches[-1][1] or matches[-1][2]).upper()
    return "A" if letter == "A" else "B" if letter == "B" else "tie"


def _bare(text: str) -> Shown | None:
    """Return the verdict that fills the last line, or else the first line."""
    lines = [line for line in text.split("\n") if line.strip()]
    for line in (lines[-1], lines[0]):
        match = _BARE.fullmatch(line[:200]) or _SENTENCE.fullmatch(line[:200])
        if match:
            return _named(match)
    return None


def _value(text: str) -> Shown | None:
    match = _BARE.fullmatch(text[:200])
    return _named(match) if match else None


def _named(match: re.Match[str]) -> Shown:
    if match.groupdict().get("tie"):
        return "tie"
    return "A" if match["letter"].upper() == "A" else "B"


def _reason(text: str) -> str:
    """Return the text without the lines that only state the verdict."""
    lines = [line for line in text.split("\n") if line.strip() and not _BARE.fullmatch(line[:200])]
    kept = [line for line in lines if not (match := _MARKED.match(line)) or line[match.end() :].strip(" .*_`")]
    return "\n".join(kept).strip()[:KEPT]


def of_pair(shown: Shown, swapped: bool) -> Choice:
    """Return a verdict about "A" and "B" as one about the answers of the pair; `swapped` if A showed the second.

    >>> of_pair("A", swapped=False), of_pair("A", swapped=True), of_pair("tie", swapped=True)
    ('first', 'second', 'tie')
    """
    if shown == "A":
        return "second" if swapped else "first"
    if shown == "B":
        return "first" if swapped else "second"
    return shown


def agreed(orders: tuple[Choice, Choice]) -> Choice:
    """Return the verdict of both orders: a choice only where both made it, a skip where one is.

    >>> agreed(("first", "first")), agreed(("first", "second")), agreed(("first", "tie")), agreed(("skip", "tie"))
    ('first', 'tie', 'tie', 'skip')
    """
    one, other = orders
    if "skip" in orders:
        return "skip"
    return one if one == other else "tie"
