"""A judge of answers: a language model with a rubric, or a Python function.

A model is shown each pair in both orders, and a verdict that turns with the order is a tie (Zheng et al. 2023, "Judging
LLM-as-a-judge with MT-bench and chatbot arena", arXiv 2306.05685, sec. 3.4). A skip teaches nothing and keeps its
reason. Each verdict carries its source, "judge/NAME@DIGEST" or "function/NAME", by which guards leave it out and a
rollback can undo it.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Literal, TypeVar

from msgspec import Struct

from everlearn.errors import ConfigError, ModelError
from everlearn.families.preference.answer_cache import AnswerCache, Complete, Completion, kept
from everlearn.families.preference.endpoint import EndpointClient
from everlearn.families.preference.judged_pairs import AnswerPair, JudgeVerdict
from everlearn.families.preference.rubric import (
    CRITIQUE,
    REVISION,
    TEMPLATE,
    Rubric,
    filled,
    judge_source,
    read_rubric,
    read_template,
)
from everlearn.families.preference.verdicts import Choice, ReadVerdict, Shown, agreed, of_pair, read_verdict

LONGEST = 100_000  # characters of a prompt with its answers; longer pairs are skipped

Given = TypeVar("Given")
Found = TypeVar("Found")
Ask = Callable[[str, str, str], tuple[ReadVerdict, float]]  # prompt, A, B -> the reading and its seconds


class JudgeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A judge model with a rubric.

    `rubric` is the path of a text file; `template` that of another prompt template than the default. `model` names the
    model in the source of the verdicts. `at_once` pairs are judged at the same time. With `revise`, the judge also
    criticises the better answer and rewrites it (Bai et al. 2022, "Constitutional AI", arXiv 2212.08073, sec. 3.1).
    """

    name: str
    rubric: str
    model: str
    template: str = ""
    temperature: float = 0.0
    at_once: int = 4
    revise: bool = False


@dataclass(frozen=True, slots=True)
class Judge:
    """The source of a judge's verdicts, the function that asks it, and how many pairs it judges at once."""

    source: str
    ask: Ask
    at_once: int = 1
    revise: Callable[[str, str], str] | None = None


def model_judge(
    settings: JudgeSettings, complete: Complete | Callable[[str], str], cache: AnswerCache | None = None
) -> Judge:
    """Return the judge that asks a language model.

    `complete` answers a prompt: an `EndpointClient`, or any function that returns text, such as a local model. It is
    called from `at_once` threads. Raises `ConfigError` for a rubric or template that cannot be used, and for an
    endpoint of another model.
    """
    rubric = read_rubric(settings.rubric)
    template = read_template(settings.template) if settings.template else TEMPLATE
    if not 1 <= settings.at_once <= 256:
        raise ConfigError(f"judge.at_once: got {settings.at_once}; expected 1 to 256")
    if isinstance(complete, EndpointClient):
        served = complete.settings
        if (served.model, served.temperature) != (settings.model, settings.temperature):
            raise ConfigError(
                f"judge.model: got {settings.model!r} at temperature {settings.temperature:g}, and an endpoint for "
                f"{served.model!r} at {served.temperature:g}; give both the same, as they are part of the source"
            )
    source = judge_source(settings.name, rubric, settings.model, template, settings.temperature)
    answer = kept(lambda prompt: _as_completion(complete(prompt)), source, cache)

    def ask(prompt: str, a: str, b: str) -> tuple[ReadVerdict, float]:
        found = answer(filled(template, rubric.text, prompt, a, b))
        return _read(found), found.seconds

    def revise(prompt: str, better: str) -> str:
        critique = answer(filled(CRITIQUE, rubric.text, prompt, better))
        if critique.problem or not critique.text.strip():
            return ""
        found = answer(filled(REVISION, rubric.text, prompt, better, critique.text))
        text = found.text.strip()
        return "" if found.problem or found.finish == "length" or text == better.strip() else text

    return Judge(source, ask, settings.at_once, revise if settings.revise else None)


def function_judge(name: str, function: Callable[[str, str, str], Shown]) -> Judge:
    """Return the judge that calls a Python function of prompt, answer A and answer B: "A", "B", "tie" or "skip".

    It is called for both orders, as a model is. Its source is "function/NAME".

    >>> shorter = function_judge("shorter", lambda prompt, a, b: "A" if len(a) < len(b) else "B")
    >>> judged(shorter, AnswerPair("q1", "Why?", "Because.", "Just because.")).chosen
    0
    """

    def ask(prompt: str, a: str, b: str) -> tuple[ReadVerdict, float]:
        start = perf_counter()
        try:
            found = function(prompt, a, b)
        except Exception as error:
            raise ModelError(f"the judge function/{name} failed: {type(error).__name__}: {error}") from error
        if found not in ("A", "B", "tie", "skip"):
            raise ModelError(f"the judge function/{name} returned {found!r}; expected 'A', 'B', 'tie' or 'skip'")
        return ReadVerdict(found, "the function skipped it" if found == "skip" else ""), perf_counter() - start

    return Judge(f"function/{name}", ask)


def trusted_judge(name: str, function: str) -> Judge:
    """Return the judge that calls the user's function "module:function", with the source "judge/NAME@DIGEST".

    The digest is that of the function's name and of the bytes of its module, so that a changed function is another
    judge. Raises `ConfigError` for a name or a function that cannot be used.
    """
    module, marked, attribute = function.partition(":")
    try:
        if not (module and marked and attribute):
            raise ValueError('expected "module:function"')
        found = importlib.import_module(module)
        called = getattr(found, attribute)
        content = Path(str(found.__file__)).read_bytes()
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(
            f"judge.function: got {function!r}, which cannot be used: {error}; expected the module:function of a "
            "function in a file of Python"
        ) from error
    source = judge_source(name, Rubric(function, hashlib.sha256(content).hexdigest()), "function", "")
    return replace(function_judge(name, called), source=source)


def judged(judge: Judge, pair: AnswerPair) -> JudgeVerdict:
    """Return the verdict on one pair, asked in both orders.

    After a skip the other order is not asked. Equal answers are a tie, and pairs of more than 100,000 characters a
    skip, without a question. Raises what the judge raises: `JudgeUnavailable`, `ConfigError`, `ModelError`.
    """
    if pair.first.strip() == pair.second.strip():
        return _verdict(judge, pair, ("tie", "tie"), "the answers are the same", 0.0)
    length = len(pair.prompt) + len(pair.first) + len(pair.second)
    if length > LONGEST:
        return _verdict(judge, pair, ("skip", "skip"), f"got {length} characters; expected at most {LONGEST}", 0.0)
    straight, spent = judge.ask(pair.prompt, pair.first, pair.second)
    if straight.choice == "skip":
        return _verdict(judge, pair, ("skip", "skip"), straight.why, spent)
    turned, more = judge.ask(pair.prompt, pair.second, pair.first)
    orders = (of_pair(straight.choice, False), of_pair(turned.choice, True))
    found = _verdict(judge, pair, orders, _why(orders, straight.why, turned.why), spent + more)
    if judge.revise is None or found.verdict == "skip":
        return found
    return _with_revision(judge.revise, pair, found)


def judged_all(judge: Judge, pairs: Iterable[AnswerPair]) -> Iterator[JudgeVerdict]:
    """Yield the verdicts on pairs, in their order; up to `judge.at_once` pairs are judged at the same time.

    Memory is bounded: pairs are read as verdicts are taken. Where a pair fails, the verdicts before it are yielded, and
    its error is raised; answers that came meanwhile are in the cache.
    """
    return _in_order(lambda pair: judged(judge, pair), pairs, judge.at_once)


def rejudge(
    judge: Judge, before: Iterable[tuple[AnswerPair, JudgeVerdict]]
) -> Iterator[tuple[JudgeVerdict, JudgeVerdict]]:
    """Yield the old and the new verdict of each pair, in order; a pair with a verdict of this source keeps it.

    Use it after a rubric was changed: the new source differs, so that both verdicts can stand in the log.
    """

    def again(entry: tuple[AnswerPair, JudgeVerdict]) -> tuple[JudgeVerdict, JudgeVerdict]:
        pair, old = entry
        return old, old if old.source == judge.source else judged(judge, pair)

    return _in_order(again, before, judge.at_once)


def _in_order(function: Callable[[Given], Found], items: Iterable[Given], at_once: int) -> Iterator[Found]:
    """Yield the results of a function in the order of its items, from a bounded number of threads and items."""
    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(at_once, "everlearn-judge") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _as_completion(found: Completion | str) -> Completion:
    return found if isinstance(found, Completion) else Completion(found)


def _read(found: Completion) -> ReadVerdict:
    """Return the reading of a completion; a text that was cut before its verdict is a skip that says so."""
    if found.problem:
        return ReadVerdict("skip", found.problem)
    reading = read_verdict(found.text)
    if reading.choice == "skip" and found.finish == "length":
        return ReadVerdict("skip", f"the answer was cut at the limit of tokens; {reading.why}")
    return reading


def _why(orders: tuple[Choice, Choice], straight: str, turned: str) -> str:
    """Return the reason of the verdict; for a tie of two different choices both reasons."""
    if "skip" in orders:
        return turned
    if orders[0] == orders[1]:
        return straight or turned
    return f"{orders[0]} in one order ({straight}), {orders[1]} in the other ({turned})"


def _verdict(judge: Judge, pair: AnswerPair, orders: tuple[Choice, Choice], why: str, seconds: float) -> JudgeVerdict:
    found = agreed(orders)
    kinds: dict[Choice, tuple[int, Literal["choice", "tie", "skip"]]] = {
        "first": (0, "choice"),
        "second": (1, "choice"),
        "tie": (-1, "tie"),
        "skip": (-1, "skip"),
    }
    chosen, kind = kinds[found]
    return JudgeVerdict(pair.id, chosen, kind, why, seconds, judge.source, orders)


def _with_revision(revise: Callable[[str, str], str], pair: AnswerPair, found: JudgeVerdict) -> JudgeVerdict:
    """Return a verdict with a rewriting of the better answer, or of the first one in a tie."""
    better = pair.second if found.chosen == 1 else pair.first
    return JudgeVerdict(
        found.id,
        found.chosen,
        found.verdict,
        found.why,
        found.seconds,
        found.source,
        found.orders,
        revise(pair.prompt, better),
    )
