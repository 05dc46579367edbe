"""Rules: each applies somewhere, and names facts, commands and pages that exist."""

from __future__ import annotations

import re

import numpy as np
from typer.main import get_command

from everlearn import advise, cli
from everlearn.advise import advice, situation
from everlearn.advise.rules import RULES
from everlearn.gate import power
from tests.support import ROOT


def test_every_rule_is_taken_somewhere():
    taken: set[int] = set()
    draw = np.random.default_rng(0)
    choices = {entry.name: entry.choices or ("80", "4000", "1000000") for entry in situation.QUESTIONS}
    for _ in range(3000):
        words = {name: str(draw.choice(some)) for name, some in choices.items()}
        if words["predicts"] == "number":
            words["new_classes"] = "no"
        case = advise.read({name: situation.parse_answer(name, word) for name, word in words.items()})
        taken |= {RULES.index(rule) for rule in advice._applied(case)[0]}
    assert [RULES[number].when for number in sorted(set(range(len(RULES))) - taken)] == []


def test_rules_look_only_at_facts_that_there_are_and_words_that_can_be():
    words = {entry.name: set(entry.choices) for entry in situation.QUESTIONS} | {"volume": {"few", "some", "many"}}
    words |= {"family": {"linear", "neural"}, "size": {"small", "large"}}
    words |= {name: {"yes", "no"} for name in ("ewc", "lora", "anchors", "remembers")}
    for rule in RULES:
        for name, some in rule.when.items():
            assert set(some.split("|")) <= words[name], rule.when


def test_commands_that_rules_name_exist():
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    for command in {command for rule in RULES for command in rule.then}:
        program, name, *arguments = command.split()
        assert program == "everlearn"
        commands[name].make_context(name, arguments)  # raises for options that there are not


def test_pages_that_rules_name_exist():
    named = {page for rule in RULES for page in re.findall(r"docs/[\w/-]+\.md", rule.source)}
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


def test_the_power_that_is_told_is_that_of_the_exact_test():
    assert power.needed(1.0, test="exact") == situation.POINT
    assert power.needed(2.0, test="exact") == situation.TWO_POINTS
    (danger,) = [entry for entry in advise.of({"volume": 100}).dangers if "noisy" in entry]
    for words in ("takes 5;", "take 10 with", "one point 39 (3,881)", "on 6 % of rows"):
        assert words in danger
