"""Advice: how often you update, how much data comes, what must not be forgotten -> a spec that runs, with reasons.

    answers -> Situation -> facts -> RULES, in order -> Advice: settings, reasons, dangers, what was rejected

The rules are data (`everlearn.advise.rules`), and the table of them in the documentation is made from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from everlearn.advise.rule import Rows, Rule
from everlearn.advise.rules import RULES
from everlearn.advise.situation import (
    POINT,
    QUESTIONS,
    TWO_POINTS,
    Question,
    Situation,
    facts,
    look,
    read,
    said,
    wide,
)
from everlearn.spec import Schema, Spec

__all__ = [
    "Advice",
    "Question",
    "Reason",
    "Rejected",
    "Situation",
    "look",
    "of",
    "questions",
    "read",
    "table",
    "wide",
    "written",
]

_TERM = "model.terms."
_GATE = 500  # examples before a verdict
_FIELDS: dict[str, dict[str, str]] = {  # of the schema that stands in where there are no data yet
    "table": {"amount": "numeric", "hour": "numeric", "country": "categorical"},
    "text": {"message": "text"},
    "image": {"pixels": "vector[784]"},
    "sequence": {"steps": "vector[32]"},
}


class Reason(Struct, frozen=True, kw_only=True):
    """Why some settings are as they are: `because` are the answers that asked for them, `source` who says so."""

    settings: dict[str, Any]
    because: dict[str, str]
    why: str
    source: str


class Rejected(Struct, frozen=True, kw_only=True):
    """What was not advised, and why."""

    alternative: str
    why: str


class Advice(Struct, frozen=True, kw_only=True):
    """What to do, and why.

    `model` is a spec for `everlearn.build`; `settings` are those of the loop, by table of everlearn.toml. `assumed`
    names the answers that mattered and were not given. `then` are commands that belong to it.
    """

    title: str
    situation: Situation
    assumed: tuple[str, ...]
    model: dict[str, Any]
    settings: dict[str, Any]
    reasons: tuple[Reason, ...]
    dangers: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    then: tuple[str, ...]

    def spec(self, schema: Schema | None = None) -> Spec:
        """The whole loop, for `everlearn.open` and `everlearn.config.save`; an example schema stands in for none."""
        whole = {**self.settings, "model": self.model, "schema": msgspec.to_builtins(schema or self._example())}
        return msgspec.convert(whole, Spec)

    def _example(self) -> Schema:
        number, more = self.situation.predicts == "number", self.situation.new_classes
        classes = () if number else ("no", "yes", "not seen yet") if more else ("no", "yes")
        task = "regression" if number else "multiclass" if more else "binary"
        return Schema(label="label", task=task, fields=_FIELDS[self.situation.inputs], classes=classes)  # type: ignore[arg-type]


def of(situation: Situation | Mapping[str, Any]) -> Advice:
    """Advice for a situation, or for some answers by name; what is missing is assumed, and `assumed` names it.

    Every rule that fits is taken, in order, and sets its settings over what the rules before have set. Raises
    `ConfigError` for an answer that is none of the choices, and for answers that contradict each other.

    >>> advice = of({"inputs": "image", "frequency": "weekly", "volume": 5000})
    >>> [term["kind"] for term in advice.model["terms"]], advice.model["ema"]
    (['replay', 'ewc'], 0.99)
    >>> of(Situation()).model
    {'family': 'linear'}
    """
    given = msgspec.to_builtins(situation) if isinstance(situation, Situation) else dict(situation)
    asked = read(given)
    fitting, held = _applied(asked)
    kept = {path: (_value(value, asked), rule) for path, (value, rule) in held.items() if value is not None}
    values = _nested({path: value for path, (value, _) in kept.items()})
    numbers = _numbers(asked)
    refused = {alternative: why for rule in fitting for alternative, why in rule.rejected.items()}
    return Advice(
        title=_title(values),
        situation=asked,
        assumed=tuple(one.name for one in _open(asked, given)),
        model=values.pop("model"),
        settings=values,
        reasons=tuple(_reasons(fitting, kept, asked)),
        dangers=tuple(dict.fromkeys(rule.danger.format(**numbers) for rule in fitting if rule.danger)),
        rejected=tuple(Rejected(alternative=one, why=why) for one, why in refused.items()),
        then=tuple(dict.fromkeys(command for rule in fitting for command in rule.then)),
    )


def questions(answers: Mapping[str, Any]) -> list[Question]:
    """The questions that are still open, given some answers: those that a rule may still depend on.

    >>> [one.name for one in questions({"model": "linear", "frequency": "weekly"})]
    ['predicts', 'volume', 'new_classes', 'forgetting', 'drift', 'store', 'undo', 'late']
    """
    return _open(read(answers), answers)


def table() -> str:
    """All rules as tables in Markdown, in the order in which they are taken: settings, dangers, what is not advised."""
    settings, dangers, refused = [], [], []
    for rule in RULES:
        when = "; ".join(f"{_spaced(name)}: {words.replace('|', ' or ')}" for name, words in rule.when.items())
        effects = [f"`{line}`" for line in written(rule.sets)]
        effects += [f"then `{command}`" for command in rule.then]
        if effects:
            settings.append((when, "<br>".join(effects), rule.why, rule.source))
        if rule.danger:
            dangers.append((when, rule.danger.format(**_numbers(Situation()))))
        refused += [(when, alternative, why) for alternative, why in rule.rejected.items()]
    return "\n".join(
        (
            *_markdown(("when", "set", "why", "source"), settings),
            *_markdown(("when", f"danger (numbers: with {Situation().volume:,} rows an update)"), dangers),
            *_markdown(("when", "not advised", "why"), refused),
        )
    )


def written(settings: Mapping[str, Any]) -> list[str]:
    """Settings by their dotted paths, as the lines in which they are shown.

    >>> written({"model.ema": 0.99, "model.terms.ewc": {"strength": 100.0}})
    ['model.ema = 0.99', 'term {kind = "ewc", strength = 100.0}']
    """
    return [_line(path, value) for path, value in settings.items()]


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)] + [""]


def _applied(asked: Situation) -> tuple[list[Rule], dict[str, tuple[Any, Rule]]]:
    """The rules that fit, and what is set in the end, each with the rule that set it."""
    fitting: list[Rule] = []
    held: dict[str, tuple[Any, Rule]] = {}
    for rule in RULES:
        if rule.fits(facts(asked) | _chosen(held)):
            fitting.append(rule)
            held |= {path: (value, rule) for path, value in rule.sets.items()}
    return fitting, held


def _chosen(held: Mapping[str, tuple[Any, Rule]]) -> dict[str, str]:
    """The facts that follow from what rules have set."""
    family, _ = held.get("model.family", ("", None))
    there = {path for path, (value, _) in held.items() if value is not None}
    return {"family": family} | {name: said(bool(there & paths)) for name, paths in _FOLLOWING.items()}


_FOLLOWING = {
    "ewc": {f"{_TERM}ewc"},
    "lora": {"model.lora"},
    "anchors": {f"{_TERM}{kind}" for kind in ("ewc", "lwf", "orthogonal")},
    "remembers": {f"{_TERM}{kind}" for kind in ("replay", "distill")},
}


def _open(asked: Situation, given: Mapping[str, Any]) -> list[Question]:
    """The questions that are not answered, and that some rule still depends on."""
    if given.get("predicts") == "number":
        given = {**given, "new_classes": False}  # there are none to come
    known = {name: word for name, word in facts(asked).items() if name in given or name == "size"}
    known["family"] = _chosen(_applied(asked)[1])["family"]
    return [
        one
        for one in QUESTIONS
        if one.name not in given and any(one.name in rule.when and rule.fits(known) for rule in RULES)
    ]


def _value(value: Any, asked: Situation) -> Any:
    if isinstance(value, Rows):
        return min(asked.volume, value.most or asked.volume)
    return value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths as tables within tables; terms of the loss as a list, each with its kind."""
    values: dict[str, Any] = {}
    for path, value in flat.items():
        *tables, name = path.split(".")
        inner = values
        for one in tables:
            inner = inner.setdefault(one, {})
        inner[name] = dict(value) if isinstance(value, Mapping) else value
    model = values["model"]
    if terms := model.pop("terms", None):
        model["terms"] = [{"kind": kind, **settings} for kind, settings in terms.items()]
    if gated := values.pop("gated", None):
        values["model"] = {"family": "gated", "model": model, **gated}
    return values


def _reasons(fitting: list[Rule], kept: Mapping[str, tuple[Any, Rule]], asked: Situation) -> Iterator[Reason]:
    """What is left of each rule: settings that no later rule has changed, and the answers that asked for them."""
    for rule in fitting:
        left = {path: value for path, (value, by) in kept.items() if by is rule}
        if left:
            yield Reason(settings=left, because=_because(rule, asked), why=rule.why, source=rule.source)


def _because(rule: Rule, asked: Situation) -> dict[str, str]:
    """The answers that a rule looked at; what follows from the model or the inputs is told as these."""
    names = dict.fromkeys(name for name in rule.when if name in Situation.__struct_fields__)
    if not names or "size" in rule.when:
        names["inputs" if asked.model == "any" else "model"] = None
    return {name: said(getattr(asked, name)) for name in names}


def _numbers(asked: Situation) -> dict[str, int]:
    """What dangers say of the volume: how many updates until the gate may speak, and until it sees a point or two."""
    updates = {"gate": _GATE, "one": POINT, "two": TWO_POINTS}
    counts = {name: math.ceil(rows / asked.volume) for name, rows in updates.items()}
    return {"volume": asked.volume, "one_rows": POINT, "two_rows": TWO_POINTS} | counts


def _title(values: Mapping[str, Any]) -> str:
    """What the advice comes to, in one line."""
    whole = values["model"]
    model = whole.get("model", whole)
    if model["family"] == "linear":
        parts = ["linear model"]
    else:
        parts = ["online LoRA" if "lora" in model else "network"]
        parts += [_NAMES.get(term["kind"], term["kind"]) for term in model.get("terms", ())]
        parts.append(f"EMA {model['ema']:g}".replace("0.", "."))
    gate = "each update validated" if whole["family"] == "gated" else values.get("mode", "gated")
    return f"{' + '.join(parts)}, {gate}"


_NAMES = {"ewc": "EWC", "lwf": "LwF", "distill": "DER++", "replay": "replay", "orthogonal": "O-LoRA"}


def _line(path: str, value: Any) -> str:
    """A setting as it is written in the table."""
    if not path.startswith(_TERM):
        return f"{path}: not set" if value is None else f"{path} = {_toml(value)}"
    kind = path.removeprefix(_TERM)
    return f"no term {kind}" if value is None else f"term {_toml({'kind': kind, **value})}"


def _toml(value: Any) -> str:
    if isinstance(value, Rows):
        return f"rows of an update, at most {value.most:,}" if value.most else "rows of an update"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
