"""What a rule is, and words that several rules share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Rows(NamedTuple):
    """A setting that is the number of rows of one update, at most `most` (0: all of them)."""

    most: int = 0


class Rule(NamedTuple):
    """One line of the table.

    `when` maps facts to words, "|" between those that will do. `sets` maps settings of everlearn.toml to values; a
    term of the loss is the setting model.terms.KIND, and None takes a setting back. `danger` is what is known to go
    wrong, `rejected` maps what was not advised to the reason, and `then` are commands that belong to it.
    """

    when: Mapping[str, str]
    why: str
    source: str
    sets: Mapping[str, Any] = {}
    danger: str = ""
    rejected: Mapping[str, str] = {}
    then: tuple[str, ...] = ()

    def fits(self, facts: Mapping[str, str]) -> bool:
        """Whether every fact that is known is one of those that will do; a fact not known yet is no hindrance."""
        return all(facts.get(name, words) in (words, *words.split("|")) for name, words in self.when.items())


MERGED = "on demand|periodic"
APART = "daily|weekly|monthly"
LORA = {"rank": 8, "alpha": 16.0}
