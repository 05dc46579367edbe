"""What is asked before there is advice: the answers, the questions, and the facts that rules look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct

from everlearn.errors import ConfigError
from everlearn.schema import width
from everlearn.spec import Schema

Frequency = Literal["streaming", "daily", "weekly", "monthly", "on demand", "periodic"]
Inputs = Literal["table", "text", "image", "sequence"]
Size = Literal["any", "linear", "small", "large"]

LARGE = 10_000_000  # parameters from which on a model is large
FEW, MANY = 500, 20_000  # rows of an update below which they are few, and from which on they are many
POINT, TWO_POINTS = 3_881, 996  # examples on which an exact paired test sees one point of accuracy, and two


class Situation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answers that advice follows from; each default is what is assumed where nothing is said.

    `model` is what you have: "any" leaves the choice open, a number is the count of its parameters. `frequency` is
    when the model is updated; "on demand" and "periodic" mean that models learned apart are merged, when somebody asks
    or by the calendar. `volume` counts labelled rows of one update (of a day, where it streams). `new_classes`:
    labels come that were not there before. `forgetting` is the risk of it: high where old patterns come back.
    `borders`: the stream is in tasks with known ends. `store`: examples may be kept. `undo`: each change must be
    reversible. `late`: labels come long after the predictions.
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


class Question(NamedTuple):
    """How one answer is asked for: the words, what may be said, and what is assumed where nothing is."""

    name: str
    text: str
    choices: tuple[str, ...]
    default: str


def read(answers: Mapping[str, Any]) -> Situation:
    """The situation of some answers, by name; raise `ConfigError` that names the answer, what was got and expected.

    >>> read({"frequency": "daily", "model": 7_000_000_000}).volume
    1000
    """
    try:
        found = msgspec.convert(dict(answers), Situation)
    except msgspec.ValidationError as error:
        what, _, where = str(error).rpartition(" - at ")
        name = where.strip("`").removeprefix("$.")
        asked = next((one for one in QUESTIONS if one.name == name and one.choices), None)
        if asked is None or name not in answers:
            raise ConfigError(f"situation: {f'{name}: ' if name else ''}{what or error}") from error
        more = ", or a number of parameters" if name == "model" else ""
        choices = f"{', '.join(asked.choices)}{more}"
        raise ConfigError(f"situation: {name} is {answers[name]!r}, expected one of {choices}") from error
    if found.new_classes and found.predicts == "number":
        raise ConfigError(
            "situation: new_classes is yes and predicts is 'number'; expected classes where new classes come: "
            "say predicts = 'classes', or new_classes = no"
        )
    return found


def look(schema: Schema, rows: int | None = None) -> dict[str, Any]:
    """What the schema and the number of rows of a data set answer; `rows` is taken to be one update.

    >>> look(Schema(label="y", task="regression", fields={"t": "text"}), 80_000)
    {'inputs': 'text', 'predicts': 'number', 'volume': 80000}
    """
    kinds = list(schema.fields.values())
    found: dict[str, Any] = {
        "inputs": "text" if "text" in kinds else "table",
        "predicts": "number" if schema.task == "regression" else "classes",
    }
    return found | ({"volume": rows} if rows else {})


def wide(schema: Schema) -> int:
    """How many dense columns a schema has."""
    return sum(map(width, schema.fields.values()))


def facts(situation: Situation, family: str = "") -> dict[str, str]:
    """What conditions of rules are about, each as a word: the answers, and what follows from them.

    `volume` is "few", "some" or "many"; `size` is "small" or "large", also where `model` is a number; `family` is
    what rules have chosen so far.

    >>> facts(Situation(volume=80, model=70_000_000))["size"]
    'large'
    """
    words = {name: said(getattr(situation, name)) for name in Situation.__struct_fields__}
    volume, model = situation.volume, situation.model
    words["volume"] = "few" if volume < FEW else "many" if volume >= MANY else "some"
    if isinstance(model, int):
        words["model"] = "large" if model >= LARGE else "small"
    words["size"] = words["model"] if words["model"] in ("linear", "large") else "small"
    return words | {"family": family}


def said(answer: object) -> str:
    """An answer in the words in which it is asked for."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return f"{answer:,}" if isinstance(answer, int) else str(answer)


def heard(name: str, word: str) -> Any:
    """The value of an answer given as text: "yes" for true, "7e9" for a number; what fits nothing stays as it is.

    >>> heard("store", "no"), heard("model", "7e9"), heard("frequency", "on-demand")
    (False, 7000000000, 'on demand')
    """
    plain = word.strip().lower().replace("-", " ").replace("_", " ")
    if next(one for one in QUESTIONS if one.name == name).choices == _YES_NO:
        return {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}.get(plain, word)
    if name in ("volume", "model"):
        try:
            return int(float(word.strip().replace(",", "").replace("_", "")))
        except (ValueError, OverflowError):
            return plain
    return plain


_YES_NO = ("yes", "no")
_ASKED: dict[str, tuple[str, tuple[str, ...]]] = {
    "inputs": ("What is a row?", get_args(Inputs)),
    "model": ("Which model do you have? (or its number of parameters)", get_args(Size)),
    "predicts": ("What is predicted?", ("classes", "number")),
    "frequency": ("When is the model updated?", get_args(Frequency)),
    "volume": ("How many labelled rows has one update? (streaming: a day)", ()),
    "new_classes": ("Will labels come that were not there before?", _YES_NO),
    "forgetting": ("How bad is forgetting? (high: old patterns come back)", ("low", "medium", "high")),
    "drift": ("How fast does the world change?", ("slow", "fast")),
    "borders": ("Is the stream in tasks, with ends that you know?", _YES_NO),
    "store": ("May examples be kept?", _YES_NO),
    "undo": ("Must each change be reversible?", _YES_NO),
    "late": ("Do labels come long after the predictions?", _YES_NO),
}
QUESTIONS = tuple(
    Question(field.name, *_ASKED[field.name], said(field.default)) for field in msgspec.structs.fields(Situation)
)
