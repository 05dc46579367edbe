"""The tables of the rules: in the documentation, and as data."""

from __future__ import annotations

import json
import re

import msgspec

from everlearn import advise
from everlearn.advise import situation
from tests.support import ROOT
from tests.support.commands import call


def test_the_tables_of_the_documentation_are_those_of_the_rules(capsys):
    page = (ROOT / "docs/how-to/advise.md").read_text(encoding="utf-8")
    written = re.search(r"<!-- rules: .*? -->\n\n(.*?)\n<!-- end of rules -->", page, re.DOTALL)
    assert written is not None
    call("advise", "--rules")
    printed = capsys.readouterr().out
    assert written[1] == printed, "docs/how-to/advise.md: put there what `everlearn advise --rules` prints"
    for question in situation.QUESTIONS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{question.name}` |"))
        assert f"| `{question.default.replace(',', '')}` |" in row
        assert all(choice in row for choice in question.choices)


def test_json_rules_are_the_same(capsys):
    call("advise", "--rules", "--json")
    assert json.loads(capsys.readouterr().out)["rules"] == advise.table()
    assert json.loads(json.dumps(msgspec.to_builtins(advise.of({}))))["model"] == {"family": "linear"}
