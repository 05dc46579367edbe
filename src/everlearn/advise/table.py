"""The rules as tables in Markdown, and settings as the lines in which they are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from everlearn.advise.advice import updates_until
from everlearn.advise.rule import TERM, UpdateRows
from everlearn.advise.rules import RULES
from everlearn.advise.situation import Situation


def table() -> str:
    """Return all rules as tables in Markdown, in order: settings, dangers, alternatives not advised."""
    settings, dangers, refused = [], [], []
    for rule in RULES:
        when = "; ".join(f"{_spaced(name)}: {words.replace('|', ' or ')}" for name, words in rule.when.items())
        effects = [f"`{line}`" for line in written(rule.sets)]
        effects += [f"then `{command}`" for command in rule.then]
        if effects:
            settings.append((when, "<br>".join(effects), rule.why, rule.source))
        if rule.danger:
            dangers.append((when, rule.danger.format(**updates_until(Situation()))))
        refused += [(when, alternative, why) for alternative, why in rule.rejected.items()]
    return "\n".join(
        (
            *_markdown(("when", "set", "why", "source"), settings),
            *_markdown(("when", f"danger (numbers: with {Situation().volume:,} rows an update)"), dangers),
            *_markdown(("when", "not advised", "why"), refused),
        )
    )


def written(settings: Mapping[str, Any]) -> list[str]:
    """Return settings, given by dotted paths, as the lines in which they are shown.

    >>> written({"model.ema": 0.99, "model.terms.ewc": {"strength": 100.0}})
    ['model.ema = 0.99', 'term {kind = "ewc", strength = 100.0}']
    """
    return [_line(path, value) for path, value in settings.items()]


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)] + [""]


def _line(path: str, value: Any) -> str:
    """Return the line of one setting."""
    if not path.startswith(TERM):
        return f"{path}: not set" if value is None else f"{path} = {_toml(value)}"
    kind = path.removeprefix(TERM)
    return f"no term {kind}" if value is None else f"term {_toml({'kind': kind, **value})}"


def _toml(value: Any) -> str:
    if isinstance(value, UpdateRows):
        return f"rows of an update, at most {value.most:,}" if value.most else "rows of an update"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
