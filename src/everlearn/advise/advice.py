"""Advice: a situation in, a runnable spec out, with the reasons for each setting.

    answers -> Situation -> facts -> RULES, in order -> Advice: settings, reasons, dangers, alternatives not advised

The rules are data (`everlearn.advise.rules`), and the table of them in the documentation is made from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from everlearn.advise.rule import TERM, Rule, UpdateRows
from everlearn.advise.rules import RULES
from everlearn.advise.situation import POINT, QUESTIONS, TWO_POINTS, AdviceQuestion, Situation, as_word, facts, read
from everlearn.spec import Schema, Spec

_GATE = 500  # examples before the gate's first verdict
_FIELDS: dict[str, dict[str, str]] = {  # of the example schema, used where there are no data yet
    "table": {"amount": "numeric", "hour": "numeric", "country": "categorical"},
    "text": {"message": "text"},
    "image": {"pixels": "vector[784]"},
    "sequence": {"steps": "vector[32]"},
}


class Reason(Struct, frozen=True, kw_only=True):
    """The reason for some settings: `because` has the answers behind them, `source` the literature or measurement."""

    settings: dict[str, Any]
    because: dict[str, str]
    why: str
    source: str


class Alternative(Struct, frozen=True, kw_only=True):
    """An alternative that is not advised, and the reason."""

    alternative: str
    why: str


class Advice(Struct, frozen=True, kw_only=True):
    """A model and settings, with their reasons.

    `model` is a spec for `everlearn.build`; `settings` are those of the loop, by table of everlearn.toml. `assumed`
    names the answers that mattered and were not given. `then` are commands to run as well.
    """

    title: str
    situation: Situation
    assumed: tuple[str, ...]
    model: dict[str, Any]
    settings: dict[str, Any]
    reasons: tuple[Reason, ...]
    dangers: tuple[str, ...]
    rejected: tuple[Alternative, ...]
    then: tuple[str, ...]

    def spec(self, schema: Schema | None = None) -> Spec:
        """Return the spec of the whole loop, for `everlearn.open` and `everlearn.config.save`.

        Without a schema, it has an example schema.
        """
        whole = {**self.settings, "model": self.model, "schema": msgspec.to_builtins(schema or self._example())}
        return msgspec.convert(whole, Spec)

    def _example(self) -> Schema:
        number, growing = self.situation.predicts == "number", self.situation.new_classes
        classes = () if number else ("no", "yes", "not seen yet") if growing else ("no", "yes")
        task = "regression" if number else "multiclass" if growing else "binary"
        return Schema(label="label", task=task, fields=_FIELDS[self.situation.inputs], classes=classes)  # type: ignore[arg-type]


def of(situation: Situation | Mapping[str, Any]) -> Advice:
    """Return advice for a situation, or for a mapping of answers.

    Missing answers are assumed, and `assumed` names them. Every rule that fits is applied, in order, and its settings
    override those of earlier rules. Raises `ConfigError` for an answer that is not one of the choices, and for answers
    that contradict each other.

    >>> advice = of({"inputs": "image", "frequency": "weekly", "volume": 5000})
    >>> [term["kind"] for term in advice.model["terms"]], advice.model["ema"]
    (['replay', 'ewc'], 0.99)
    >>> of(Situation()).model
    {'family': 'linear'}
    """
    given = msgspec.to_builtins(situation) if isinstance(situation, Situation) else dict(situation)
    situation = read(given)
    fitting, held = _applied(situation)
    kept = {path: (_value(value, situation), rule) for path, (value, rule) in held.items() if value is not None}
    values = _nested({path: value for path, (value, _) in kept.items()})
    numbers = updates_until(situation)
    refused = {alternative: why for rule in fitting for alternative, why in rule.rejected.items()}
    return Advice(
        title=f"{describe_model(values['model'])}, {describe_serving(values['model'], values)}",
        situation=situation,
        assumed=tuple(question.name for question in _open(situation, given)),
        model=values.pop("model"),
        settings=values,
        reasons=tuple(_reasons(fitting, kept, situation)),
        dangers=tuple(dict.fromkeys(rule.danger.format(**numbers) for rule in fitting if rule.danger)),
        rejected=tuple(Alternative(alternative=name, why=why) for name, why in refused.items()),
        then=tuple(dict.fromkeys(command for rule in fitting for command in rule.then)),
    )


def questions(answers: Mapping[str, Any]) -> list[AdviceQuestion]:
    """Return the questions that are still open after some answers: those that some rule depends on.

    Raises `ConfigError` for an answer that is not one of the choices.

    >>> [question.name for question in questions({"model": "linear", "frequency": "weekly"})]
    ['predicts', 'volume', 'new_classes', 'forgetting', 'drift', 'store', 'undo', 'late']
    """
    return _open(read(answers), answers)


def _applied(situation: Situation) -> tuple[list[Rule], dict[str, tuple[Any, Rule]]]:
    """Return the rules that fit, and the final settings, each with the rule that set it."""
    fitting: list[Rule] = []
    held: dict[str, tuple[Any, Rule]] = {}
    for rule in RULES:
        if rule.fits(facts(situation) | _chosen(held)):
            fitting.append(rule)
            held |= {path: (value, rule) for path, value in rule.sets.items()}
    return fitting, held


def _chosen(held: Mapping[str, tuple[Any, Rule]]) -> dict[str, str]:
    """Return the facts that follow from the settings so far."""
    family, _ = held.get("model.family", ("", None))
    present = {path for path, (value, _) in held.items() if value is not None}
    return {"family": family} | {name: as_word(bool(present & paths)) for name, paths in _FOLLOWING.items()}


_FOLLOWING = {
    "ewc": {f"{TERM}ewc"},
    "lora": {"model.lora"},
    "anchors": {f"{TERM}{kind}" for kind in ("ewc", "lwf", "orthogonal")},
    "remembers": {f"{TERM}{kind}" for kind in ("replay", "distill")},
}


def _open(situation: Situation, given: Mapping[str, Any]) -> list[AdviceQuestion]:
    """Return the questions without an answer that some rule still depends on."""
    if given.get("predicts") == "number":
        given = {**given, "new_classes": False}  # a regression has no classes
    known = {name: word for name, word in facts(situation).items() if name in given or name == "size"}
    known["family"] = _chosen(_applied(situation)[1])["family"]
    return [
        question
        for question in QUESTIONS
        if question.name not in given and any(question.name in rule.when and rule.fits(known) for rule in RULES)
    ]


def _value(value: Any, situation: Situation) -> Any:
    if isinstance(value, UpdateRows):
        return min(situation.volume, value.most or situation.volume)
    return value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted paths into nested tables; the terms of the loss become a list, each with its kind."""
    values: dict[str, Any] = {}
    for path, value in flat.items():
        *tables, name = path.split(".")
        inner = values
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[name] = dict(value) if isinstance(value, Mapping) else value
    model = values["model"]
    if terms := model.pop("terms", None):
        model["terms"] = [{"kind": kind, **settings} for kind, settings in terms.items()]
    if gated := values.pop("gated", None):
        values["model"] = {"family": "gated", "model": model, **gated}
    return values


def _reasons(fitting: list[Rule], kept: Mapping[str, tuple[Any, Rule]], situation: Situation) -> Iterator[Reason]:
    """Yield the reason for each rule: its settings that no later rule has changed, and the answers that led to them."""
    for rule in fitting:
        left = {path: value for path, (value, by) in kept.items() if by is rule}
        if left:
            yield Reason(settings=left, because=_because(rule, situation), why=rule.why, source=rule.source)


def _because(rule: Rule, situation: Situation) -> dict[str, str]:
    """Return the answers that a rule depends on; a fact derived from the model or the inputs is shown as these."""
    names = dict.fromkeys(name for name in rule.when if name in Situation.__struct_fields__)
    if not names or "size" in rule.when:
        names["inputs" if situation.model == "any" else "model"] = None
    return {name: as_word(getattr(situation, name)) for name in names}


def updates_until(situation: Situation) -> dict[str, int]:
    """Return the numbers of updates quoted in dangers: until a verdict, and until one or two points show."""
    updates = {"gate": _GATE, "one": POINT, "two": TWO_POINTS}
    counts = {name: math.ceil(rows / situation.volume) for name, rows in updates.items()}
    return {"volume": situation.volume, "one_rows": POINT, "two_rows": TWO_POINTS} | counts


def describe_model(spec: Mapping[str, Any]) -> str:
    """Name an advised model in a few words.

    >>> describe_model({"family": "linear"})
    'linear model'
    """
    model = spec.get("model", spec)
    if model["family"] == "linear":
        parts = ["linear model"]
    else:
        parts = ["online LoRA" if "lora" in model else "network"]
        parts += [_NAMES.get(term["kind"], term["kind"]) for term in model.get("terms", ())]
        parts.append(f"EMA {model['ema']:g}".replace("0.", "."))
    return " + ".join(parts)


def describe_serving(spec: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Say when updates of an advised model serve, in settings of a loop.

    >>> describe_serving({"family": "linear"}, {"mode": "gated"})
    'gated'
    """
    return "each update validated" if spec["family"] == "gated" else str(settings.get("mode", "live"))


_NAMES = {"ewc": "EWC", "lwf": "LwF", "distill": "DER++", "replay": "replay", "orthogonal": "O-LoRA"}
