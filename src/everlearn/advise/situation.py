"""The questions of the advice, their answers, and the facts that rules depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct

from everlearn.errors import ConfigError, did_you_mean
from everlearn.schema import width
from everlearn.spec import Schema

Frequency = Literal["streaming", "daily", "weekly", "monthly", "on demand", "periodic"]
Inputs = Literal["table", "text", "image", "sequence"]
Size = Literal["any", "linear", "small", "large"]

LARGE = 10_000_000  # parameters from which a model is large
FEW, MANY = 500, 20_000  # an update has few rows below the first, many from the second
POINT, TWO_POINTS = 3_881, 996  # examples with which an exact paired test detects one or two points of accuracy


class Situation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answers that advice follows from; each default is the assumption for a missing answer.

    `model` is the kind of model in use: "any" leaves the choice open, a number is the count of its parameters.
    `frequency` is the time between updates; "on demand" and "periodic" mean that models trained apart are merged, on
    request or by the calendar. `volume` counts the labelled rows of one update (of a day, for a stream). `new_classes`:
    labels will come that did not exist before. `forgetting` is its risk: high where old patterns return. `borders`: the
    stream consists of tasks with known ends. `store`: examples may be kept. `undo`: each change must be reversible.
    `late`: labels come long after the predictions.
    """

    inputs: Inputs = "table"
    model: Size | Annotated[int, Meta(ge=1)] = "any"
    predicts: Literal["classes", "number"] = "classes"
    frequency: Frequency = "streaming"
    volume: Annotated[int, Meta(ge=1)] = 1000
    new_classes: bool = False
    forgetting: Literal["low", "medium", "high"] = "medium"
    drift: Literal["slow", "fast"] = "slow"
    borders: bool = False
    store: bool = True
    undo: bool = False
    late: bool = False


class AdviceQuestion(NamedTuple):
    """One question: its text, the choices, and the default."""

    name: str
    text: str
    choices: tuple[str, ...]
    default: str


def read(answers: Mapping[str, Any]) -> Situation:
    """Return the situation for a mapping of answers.

    Raises `ConfigError`, with the answer, its value and the choices, for a wrong or contradictory answer.

    >>> read({"frequency": "daily", "model": 7_000_000_000}).volume
    1000
    """
    try:
        found = msgspec.convert(dict(answers), Situation)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).rpartition(" - at ")
        name = where.strip("`").removeprefix("$.")
        question = next((question for question in QUESTIONS if question.name == name and question.choices), None)
        if question is None or name not in answers:
            raise ConfigError(f"situation: {f'{name}: ' if name else ''}{reason or error}") from error
        suffix = ", or a number of parameters" if name == "model" else ""
        choices = f"{', '.join(question.choices)}{suffix}"
        near = did_you_mean(answers[name], question.choices)
        raise ConfigError(f"situation: {name}: got {answers[name]!r}; expected one of {choices}{near}") from error
    if found.new_classes and found.predicts == "number":
        raise ConfigError(
            "situation: got new_classes = yes and predicts = 'number'; expected predicts = 'classes' with them: "
            "set predicts = 'classes', or new_classes = no"
        )
    return found


def look(schema: Schema, rows: int | None = None) -> dict[str, Any]:
    """Return the answers that the schema and the number of rows of a data set give; `rows` counts as one update.

    >>> look(Schema(label="y", task="regression", fields={"t": "text"}), 80_000)
    {'inputs': 'text', 'predicts': 'number', 'volume': 80000}
    """
    kinds = list(schema.fields.values())
    found: dict[str, Any] = {
        "inputs": "text" if "text" in kinds else "table",
        "predicts": "number" if schema.task in ("regression", "bandit") else "classes",
    }
    return found | ({"volume": rows} if rows else {})


def wide(schema: Schema) -> int:
    """Return the number of dense columns of a schema."""
    return sum(map(width, schema.fields.values()))


def facts(situation: Situation, family: str = "") -> dict[str, str]:
    """Return the facts that rules depend on, each as a word: the answers, and what follows from them.

    `volume` is "few", "some" or "many"; `size` is "small" or "large", also where `model` is a number; `family` is the
    choice of the rules so far.

    >>> facts(Situation(volume=80, model=70_000_000))["size"]
    'large'
    """
    words = {name: as_word(getattr(situation, name)) for name in Situation.__struct_fields__}
    volume, model = situation.volume, situation.model
    words["volume"] = "few" if volume < FEW else "many" if volume >= MANY else "some"
    if isinstance(model, int):
        words["model"] = "large" if model >= LARGE else "small"
    words["size"] = words["model"] if words["model"] in ("linear", "large") else "small"
    return words | {"family": family}


def as_word(answer: object) -> str:
    """Return an answer as the word shown to users."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return f"{answer:,}" if isinstance(answer, int) else str(answer)


def parse_answer(name: str, word: str) -> Any:
    """Parse an answer given as text: "yes" is true, "7e9" a number; text that fits no choice is returned unchanged.

    >>> parse_answer("store", "no"), parse_answer("model", "7e9"), parse_answer("frequency", "on-demand")
    (False, 7000000000, 'on demand')
    """
    plain = word.strip().lower().replace("-", " ").replace("_", " ")
    if next(question for question in QUESTIONS if question.name == name).choices == _YES_NO:
        return {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}.get(plain, word)
    if name in ("volume", "model"):
        try:
            return int(float(word.strip().replace(",", "").replace("_", "")))
        except (ValueError, OverflowError):
            return plain
    return plain


_YES_NO = ("yes", "no")
_TEXTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "inputs": ("What does a row hold?", get_args(Inputs)),
    "model": ("Which model do you have? (or its number of parameters)", get_args(Size)),
    "predicts": ("What does the model predict?", ("classes", "number")),
    "frequency": ("When is the model updated?", get_args(Frequency)),
    "volume": ("How many labelled rows has one update? (streaming: a day)", ()),
    "new_classes": ("Will labels come that did not exist before?", _YES_NO),
    "forgetting": ("How bad is forgetting? (high: old patterns come back)", ("low", "medium", "high")),
    "drift": ("How fast does the world change?", ("slow", "fast")),
    "borders": ("Does the stream consist of tasks with known ends?", _YES_NO),
    "store": ("May examples be kept?", _YES_NO),
    "undo": ("Must each change be reversible?", _YES_NO),
    "late": ("Do labels come long after the predictions?", _YES_NO),
}
QUESTIONS = tuple(
    AdviceQuestion(field.name, *_TEXTS[field.name], as_word(field.default))
    for field in msgspec.structs.fields(Situation)
)
