"""One rule of advice, and words that several rules share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class UpdateRows(NamedTuple):
    """The number of rows of one update as a setting, at most `most` (0: all of them)."""

    most: int = 0


class Rule(NamedTuple):
    """One line of the table of rules.

    `when` maps facts to the words that fit, separated by "|". `sets` maps settings of everlearn.toml to values; a term
    of the loss is the setting model.terms.KIND, and None unsets a setting. `danger` is a known risk, `rejected` maps
    alternatives not advised to reasons, and `then` are commands to run as well.
    """

    when: Mapping[str, str]
    why: str
    source: str
    sets: Mapping[str, Any] = {}
    danger: str = ""
    rejected: Mapping[str, str] = {}
    then: tuple[str, ...] = ()

    def fits(self, facts: Mapping[str, str]) -> bool:
        """Return True if every known fact fits; facts that are not known yet are ignored."""
        return all(facts.get(name, words) in (words, *words.split("|")) for name, words in self.when.items())


MERGED = "on demand|periodic"
APART = "daily|weekly|monthly"
LORA = {"rank": 8, "alpha": 16.0}
TERM = "model.terms."  # begins the settings that are terms of the loss
