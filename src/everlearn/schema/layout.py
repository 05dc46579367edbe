"""Columns of the encoded rows: how wide each kind of field is, and which schemas are valid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from everlearn.errors import ConfigError, InputError, did_you_mean
from everlearn.schema import actions, forms, meaning
from everlearn.spec import LAYOUT, RULES, Schema

KINDS = ("numeric", "integer", "boolean", "categorical", "text", "datetime", "vector[n]", "tokens")
NUMBERS = ("numeric", "integer")  # kinds of fields that are one number
CATEGORIES = ("categorical", "integer")  # and those that are one hashed column: an integer is both
HASHED = (*CATEGORIES, "text", "tokens")

_OF_ACTIONS = ("offered", "action", "propensity")  # kinds that no schema names; `everlearn.schema.actions` adds them

PAIR_COLUMNS = 16  # dense columns of a pair of answers; `everlearn.schema.pairs` names them
MOST_ACTIONS = 256
PAIR_BOUNDS = ("prompt_tokens", "answer_tokens", "annotators", "sources", "groups")

_VECTOR = re.compile(r"vector\[([1-9][0-9]{0,5})\]")


def shape(schema: Schema) -> dict[str, Any]:
    """Return the shape of a model's inputs: task, number of dense columns, of hashed columns, and of classes.

    `hashed` is 0 when no field is hashed; `classes` is 0 for a regression, which also has the first of the five columns
    of its first time as `clock`, for families that forecast. Raises `ConfigError` for a schema that
    contradicts itself.

    >>> shape(Schema(label="y", task="binary", classes=(0, 1), fields={"age": "numeric", "at": "datetime"}))
    {'task': 'binary', 'dense': 6, 'hashed': 0, 'classes': 2}

    A pair of answers is a row of a binary task, whose hashed columns are the vocabulary; `pairs` has its bounds, which
    only families that ask for them receive. A bandit predicts rewards, a regression; its families receive the numbers
    of `actions` and of their fields, and the bounds of `rewards`.
    """
    check(schema)
    if schema.task == "preference":
        bounds = {name: getattr(schema, name) for name in PAIR_BOUNDS}
        return {"task": "binary", "dense": PAIR_COLUMNS, "hashed": schema.vocabulary, "classes": 2, "pairs": bounds}
    bandit = actions.shape(schema) if schema.task == "bandit" else {}
    hashed = any(kind in HASHED for kind in schema.fields.values())
    found = {
        "task": "regression" if bandit else schema.task,
        "dense": sum(width(kind) for kind in actions.columns(schema).values()),
        "hashed": 1 << schema.bits if hashed else 0,
        "classes": len(schema.classes),
        **bandit,
    }
    kinds = list(schema.fields.values())
    if schema.task == "regression" and "datetime" in kinds:
        found["clock"] = sum(map(width, kinds[: kinds.index("datetime")]))
    return found


def width(kind: str) -> int:
    """Return the number of dense columns of a kind of field. Raises `ConfigError` for an unknown kind."""
    if kind in (*NUMBERS, "boolean", *_OF_ACTIONS):
        return 1
    if kind == "datetime":
        return 5
    if kind in HASHED:
        return 0
    found = _VECTOR.fullmatch(kind)
    if not found:
        raise ConfigError(f"got the kind {kind!r}; expected one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    return int(found[1])


def check(schema: Schema) -> None:
    """Raise `ConfigError` if a schema contradicts itself, or has a layout that this release does not know."""
    if not 1 <= schema.layout <= LAYOUT:
        raise ConfigError(
            f"schema.layout: got {schema.layout}; this release encodes rows in layouts 1 to {LAYOUT}. If a newer "
            "release of Everlearn wrote it, upgrade"
        )
    if not schema.fields:
        raise ConfigError("the schema has no fields; name at least one under [schema.fields]")
    if schema.label in schema.fields:
        raise ConfigError(
            f"the label {schema.label!r} is also a field; a model must not see the value that it predicts"
        )
    for name, kind in schema.fields.items():
        try:
            width(kind if kind not in _OF_ACTIONS else "")
        except ConfigError as error:
            raise ConfigError(f"field {name!r}: {error}") from None
    if schema.rules > RULES:
        raise ConfigError(
            f"schema.rules: got {schema.rules}; this release reads values by rules 1 to {RULES}. If a newer release of "
            "Everlearn wrote it, upgrade"
        )
    for setting in ("decimal", "missing"):  # `dates` may name columns of times that are no fields
        given = getattr(schema, setting)
        for name in given if isinstance(given, dict) else ():
            if name not in schema.fields and name != schema.label:
                names = [*schema.fields, schema.label]
                raise ConfigError(
                    f"schema.{setting}: got {name!r}, which is no field of the schema{did_you_mean(name, names)}. "
                    "Correct it, or remove it"
                )
    _check_origin(schema)
    if not 1 <= schema.bits <= 30:
        raise ConfigError(f"schema.bits: got {schema.bits}; expected 1 to 30")
    _check_pairs(schema)
    _check_actions(schema)
    _check_unlabelled(schema)
    count = len(schema.classes)
    if schema.task in ("regression", "bandit") and count:
        raise ConfigError(
            f"schema.classes: got {count} classes; expected none for a {schema.task}. "
            "Leave `classes` out, or set task = 'multiclass'."
        )
    if schema.task == "binary" and count != 2:
        raise ConfigError(
            f"schema.classes: got {count} classes, {list(schema.classes)}; expected 2 for a binary task. "
            "List both, or set task = 'multiclass'."
        )
    if schema.task == "multiclass" and count < 2:
        raise ConfigError(
            f"schema.classes: got {count} classes, {list(schema.classes)}; expected at least 2 for a multiclass task. "
            "List all of them."
        )
    cells = [meaning.category(value) for value in schema.classes]
    if len(set(cells if schema.rules == 1 else map(forms.spelled, cells))) < count:
        raise ConfigError(
            f"schema.classes: got {list(schema.classes)}; expected classes of different spellings, as 7, 7.0 and '7' "
            "are one. List each class once"
        )


def _check_unlabelled(schema: Schema) -> None:
    """Raise `ConfigError` for rows without a label whose class is none of the schema."""
    if schema.unlabelled is not None and schema.unlabelled not in schema.classes:
        raise ConfigError(
            f"schema.unlabelled: got {schema.unlabelled!r}; expected one of the classes {list(schema.classes)}, which "
            "rows without a label then have. Correct it, or remove it"
        )


def _check_origin(schema: Schema) -> None:
    """Raise `ConfigError` for an origin of a field that has none, or that is no finite number of float32."""
    able = [name for name, kind in schema.fields.items() if kind in NUMBERS or _VECTOR.fullmatch(kind)]
    for name, value in schema.origin.items():
        if name not in able or schema.task == "preference":
            expected = ", ".join(map(repr, able)) if able and schema.task != "preference" else "none"
            raise ConfigError(
                f"schema.origin: got {name!r}; expected only numeric and vector fields: {expected}. Remove it"
            )
        if not abs(value) <= meaning.LARGEST:
            raise ConfigError(
                f"schema.origin.{name}: got {value!r}; expected a number between -3.4e38 and 3.4e38. Set it to a "
                "typical value of the field, or remove it"
            )


def _check_pairs(schema: Schema) -> None:
    """Raise `ConfigError` for bounds on pairs without pairs, or pairs without a vocabulary."""
    if schema.task != "preference":
        defaults = {field.name: field.default for field in structs.fields(Schema)}
        if given := [name for name in (*PAIR_BOUNDS, "vocabulary") if getattr(schema, name) != defaults[name]]:
            raise ConfigError(
                f"schema.{given[0]}: got {getattr(schema, given[0])} for a {schema.task} task; it is for the task "
                "'preference' alone. Remove it"
            )
        return
    if schema.classes:
        raise ConfigError(
            f"schema.classes: got {list(schema.classes)}; expected none for the task 'preference', whose answers are "
            "the first or the second of a pair. Leave `classes` out"
        )
    if not 2 <= schema.vocabulary < 1 << 31:
        raise ConfigError(
            f"schema.vocabulary: got {schema.vocabulary}; expected the number of tokens that the tokenizer knows, from "
            "2 to 2147483647. Set it to the length of the tokenizer"
        )


def _check_actions(schema: Schema) -> None:
    """Raise `ConfigError` for actions without a bandit, or a bandit whose actions, rewards or names are none."""
    defaults = {field.name: field.default for field in structs.fields(Schema)}
    named = ("actions", "action_fields", "rewards", "action", "propensity")
    if schema.task != "bandit":
        for name in named:
            if (got := getattr(schema, name)) and got != defaults[name]:
                raise ConfigError(
                    f"schema.{name}: got {got!r} for a {schema.task} task; it is for the task 'bandit' alone. Remove it"
                )
        return
    if not 2 <= len(schema.actions) <= MOST_ACTIONS:
        raise ConfigError(
            f"schema.actions: got {len(schema.actions)} actions; expected the names of 2 to {MOST_ACTIONS}. List them"
        )
    cells = [forms.spelled(meaning.category(name)) for name in schema.actions]
    if len(set(cells)) < len(cells) or not all(cells):
        raise ConfigError(
            f"schema.actions: got {list(schema.actions)}; expected names that differ, and none that means 'missing'"
        )
    low, high = schema.rewards
    if not -meaning.LARGEST < low < high < meaning.LARGEST:
        raise ConfigError(
            f"schema.rewards: got {[low, high]}; expected two numbers, the lowest and the highest reward. Set them"
        )
    for name, kind in schema.action_fields.items():
        if kind not in ("numeric", "boolean") or name in ("name", actions.AVAILABLE) or "." in name:
            raise ConfigError(
                f"schema.action_fields: got {name!r} = {kind!r}; expected 'numeric' or 'boolean', and a name without "
                f"dots other than 'name' and {actions.AVAILABLE!r}. Rename it"
            )
    taken = [name for name in schema.fields if name == actions.PREFIX or name.startswith(f"{actions.PREFIX}.")]
    beside = (schema.action, schema.propensity)
    taken += [name for name in beside if name in schema.fields or name == schema.label]
    if taken or len(set(beside)) < len(beside):
        raise ConfigError(
            f"schema.fields: got {(taken or beside)[0]!r}, the name of an action, or of what was taken; expected other "
            "names for the fields, the label, schema.action and schema.propensity. Rename one"
        )


def require(label: str, names: Sequence[str], where: str = "the data") -> None:
    """Raise `InputError` if `names` does not contain the label; `where` names the source in the message."""
    if label not in names:
        shown = ", ".join(map(repr, names[:50])) + (", ..." if len(names) > 50 else "")
        raise InputError(f"{where} has no column {label!r} for the label; its columns are {shown}")
