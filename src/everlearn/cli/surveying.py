"""What `init` found in a file: on the screen, and as comments in everlearn.toml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from everlearn.cli.console import screen

if TYPE_CHECKING:
    from everlearn.schema.guessing import Survey

_WIDE = 28  # characters of an example, at most


def show(survey: Survey) -> None:
    """Print every column: the fields with kind, examples and reason, then those that are left out, then notes."""
    schema = survey.schema
    table = Table("field", "kind", "examples", "why", box=box.SIMPLE_HEAD)
    for name, kind in schema.fields.items():
        guess = survey.guesses[name]
        table.add_row(escape(name), kind, escape(_examples(survey, name)), escape(guess.why + _missing(guess.missing)))
    screen.print(table)
    if schema.classes:
        screen.print(f"classes: {', '.join(map(str, schema.classes))}", highlight=False, markup=False, soft_wrap=True)
    if schema.actions:
        low, high = schema.rewards
        screen.print(f"actions: {', '.join(schema.actions)}", highlight=False, markup=False, soft_wrap=True)
        screen.print(f"rewards: {low:g} to {high:g}", highlight=False)
    for name, why in survey.left_out.items():
        shown = _examples(survey, name)
        screen.print(f"left out: {name} ({shown}): {why}", highlight=False, markup=False, soft_wrap=True)
    for note in survey.notes:
        screen.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def comments(survey: Survey) -> str:
    """Return lines for the end of a configuration file that say which columns are left out, and why."""
    if not survey.left_out:
        return ""
    lines = [f"# {_flat(name)}: {_flat(why)}" for name, why in survey.left_out.items()]
    return "\n".join(["", "# Columns that are left out. Add one to [schema.fields] to learn from it.", *lines, ""])


def plain(survey: Survey) -> dict[str, Any]:
    """Return what was found as plain values for --json."""
    return {
        "why": {name: survey.guesses[name].why for name in survey.schema.fields},
        "left_out": survey.left_out,
        "notes": list(survey.notes),
    }


def _examples(survey: Survey, name: str) -> str:
    shown = (one if len(one) <= _WIDE else f"{one[: _WIDE - 3]}..." for one in survey.examples.get(name, ()))
    return _flat(", ".join(shown))


def _missing(values: tuple[Any, ...]) -> str:
    words = [repr(value) for value in values if isinstance(value, str)]
    return f"; {', '.join(words)} for missing values" if words else ""


def _flat(text: str) -> str:
    return " ".join(text.split())
