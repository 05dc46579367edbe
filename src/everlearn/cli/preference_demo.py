"""The demo of preferences: a tiny language model at a service desk, which learns from judgements to be kind.

The loop is a real one, in a separate folder: questions and judgements are in its log, and the model is the champion.
Only the annotator is simulated (`everlearn.data.service_desk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from everlearn.data import service_desk
from everlearn.data.service_desk import COMPLAINTS

if TYPE_CHECKING:
    from everlearn.families.preference.model import PreferenceModel
    from everlearn.loop.loop import Loop
    from everlearn.spec import Spec

ROUND = 16  # questions asked before their judgements are given, and labels of a round: half the default's, felt sooner
EACH = 48  # held-out answers to each complaint that are measured
REFERENCE = 192  # answers of the first version to each complaint that they are compared with
ANNOTATOR = "people/simulated"
ROWS = 128  # answers computed at a time: all of a step, as a batch of a tiny model costs hardly more than an answer
PROMPT_TOKENS, ANSWER_TOKENS, GROUPS = 24, 48, 16

_QUESTION, _JUDGED, _SHUFFLED, _MEASURED, _FIRST, _SHOWN = range(6)  # of the keys of random numbers


class DemoMeasures(NamedTuple):
    """Held-out answers after some labels: 48 to each of the 8 complaints.

    The standard error of `win` is then 1.5 points; with 12 answers it was 3, more than shuffled labels move it.

    `gold` is their mean worth, `win` the share that beats answers of the first version to the same complaint (ties
    count half), `kind`, `rude` and `right` are shares of openings and of right remedies, `words` is the mean number.
    `different` counts different answers, `sentences` is the share of answers that belong to the language.
    """

    labels: int
    gold: float
    win: float
    kind: float
    rude: float
    right: float
    words: float
    different: int
    sentences: float


Show = Callable[[DemoMeasures], None]


def settings(model: Path, seed: int = 0, **changes: Any) -> Spec:
    """Return the settings of the demo's loop, whose language model is the folder `model`."""
    from everlearn import config
    from everlearn.families.preference.policy import load_tokenizer

    schema = {
        "label": "chosen",
        "task": "preference",
        "fields": {"prompt": "text"},
        "vocabulary": len(load_tokenizer(str(model))),
        "prompt_tokens": PROMPT_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "groups": GROUPS,
    }
    learner = {"family": "preference", "model": str(model.resolve()), "weights": "all", "seed": seed}
    learner |= {"round": ROUND, "improve": {"rows": ROWS, "steps": ROUND // 2}, **changes}
    return config.convert({"schema": schema, "model": learner, "seed": seed})


def learn(loop: Loop, labels: int, seed: int = 0, *, shuffled: bool = False) -> Iterator[int]:
    """Ask `labels` questions, and judge them as the annotator does; yield the number of labels so far, now and then.

    With `shuffled`, the judgements of each round are exchanged at random, so that they say nothing.
    """
    from everlearn.families.preference import asking, text

    for start in range(0, labels, ROUND):
        count = min(ROUND, labels - start)
        random = np.random.default_rng([seed, _JUDGED, start])
        ids, first_better = [], []
        for number in range(start, start + count):
            complaint = _complaint(number, seed)
            model = champion(loop)
            prompt = text.render(model.tokenizer, complaint)
            question = asking.ask(
                model, prompt, (seed, _QUESTION, number), group=complaint, version=loop.ready().version, position="0"
            )
            first, second = (question.answers[place].text for place in question.pair)
            ids.append(loop.record(question, {"prompt": complaint}).id)
            first_better.append(service_desk.prefers_first(complaint, first, second, random))
        if shuffled:
            first_better = np.random.default_rng([seed, _SHUFFLED, start]).permutation(first_better).tolist()
        for id, better in zip(ids, first_better, strict=True):
            loop.judge(id, 0 if better else 1, source=ANNOTATOR)
        yield start + count


def champion(loop: Loop) -> PreferenceModel:
    """Return the language model that answers now."""
    from everlearn.families.preference.model import PreferenceModel

    model = loop.ready().model
    assert isinstance(model, PreferenceModel)
    return model


def answers(model: PreferenceModel, each: int, key: tuple[int, ...]) -> list[list[str]]:
    """Return the texts of `each` answers to each complaint."""
    from everlearn.families.preference import asking, sampling, text

    seeds = np.random.default_rng(key).integers(2**62, size=len(COMPLAINTS)).tolist()
    prompts = [text.render(model.tokenizer, one) for one in COMPLAINTS]
    found = sampling.generate_many(
        model.policy.module, prompts, each, seeds=seeds, limit=ANSWER_TOKENS, stop=model.stop
    )
    return [[asking.spelled(model, one.ids) for one in some] for some in found]


def measure(model: PreferenceModel, labels: int, first: list[list[str]], seed: int = 0) -> DemoMeasures:
    """Measure held-out answers of a model, against answers of the first version."""
    found = answers(model, EACH, (seed, _MEASURED, labels))
    pairs = [(complaint, text) for complaint, texts in zip(COMPLAINTS, found, strict=True) for text in texts]
    gold = np.array([service_desk.gold(*one) for one in pairs]).reshape(len(COMPLAINTS), EACH)
    before = np.array(
        [[service_desk.gold(complaint, one) for one in some] for complaint, some in zip(COMPLAINTS, first, strict=True)]
    )
    gap = gold[:, :, None] - before[:, None, :]
    parts = [service_desk.parse(text) for _, text in pairs]
    return DemoMeasures(
        labels=labels,
        gold=float(gold.mean()),
        win=float(((gap > 0) + 0.5 * (gap == 0)).mean()),
        kind=_share([any(one in text for one in service_desk.KIND) for _, text in pairs]),
        rude=_share([any(one in text for one in service_desk.RUDE) for _, text in pairs]),
        right=_share([service_desk.is_right(*one) for one in pairs]),
        words=float(np.mean([len(text.split()) for _, text in pairs])),
        different=len(set(pairs)),
        sentences=_share([one is not None for one in parts]),
    )


def run(
    loop: Loop, labels: int, seed: int, show: Show, *, shuffled: bool = False, every: int = 32
) -> list[DemoMeasures]:
    """Let a loop learn, and measure it before, after each `every` labels, and at the end."""
    first = answers(champion(loop), REFERENCE, (seed, _FIRST))
    marks = [measure(champion(loop), 0, first, seed)]
    show(marks[0])
    for done in learn(loop, labels, seed, shuffled=shuffled):
        if done % every == 0 or done == labels:
            marks.append(measure(champion(loop), done, first, seed))
            show(marks[-1])
    return marks


def examples(loop: Loop, seed: int = 0) -> list[dict[str, str]]:
    """Return an answer of the first version and one of the present version to each of three complaints."""
    model = champion(loop)
    now = answers(model, 1, (seed, _SHOWN))
    with model.policy.reference():
        first = answers(model, 1, (seed, _SHOWN))
    rows = zip(COMPLAINTS[:3], first, now, strict=False)
    return [{"complaint": complaint, "first": before[0], "now": after[0]} for complaint, before, after in rows]


def _complaint(number: int, seed: int) -> str:
    """Return the complaint of a question: each comes once in eight questions, in a random order."""
    block, place = divmod(number, len(COMPLAINTS))
    return COMPLAINTS[int(np.random.default_rng([seed, _QUESTION, block, 0, 0]).permutation(len(COMPLAINTS))[place])]


def _share(found: list[bool]) -> float:
    return float(np.mean(found))
