"""The command that advises: answers from options, from data, and on a terminal from questions; advice as a page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from everlearn.cli.console import Json, aside, option, print_json, screen
from everlearn.errors import ConfigError, EverlearnError

if TYPE_CHECKING:
    from everlearn.advise import Advice, AdviceQuestion
    from everlearn.spec import Schema, Spec

YES_NO = "yes or no."
WIDE = 64  # dense columns from which on rows may be something else than a table


def advise(
    data: Annotated[str, typer.Argument(help="A data file, from which some answers are taken.")] = "",
    label: Annotated[str, typer.Option(help="The column of DATA to predict.")] = "",
    inputs: Annotated[str | None, typer.Option(help="What a row is: table, text, image or sequence.")] = None,
    model: Annotated[
        str | None, typer.Option(help="What you have: any, linear, small, large, or a number of parameters.")
    ] = None,
    predicts: Annotated[str | None, typer.Option(help="classes or number.")] = None,
    frequency: Annotated[
        str | None, typer.Option(help="Updates: streaming, daily, weekly, monthly, on-demand or periodic.")
    ] = None,
    volume: Annotated[str | None, typer.Option(help="Labelled rows of one update; streaming: of a day.")] = None,
    new_classes: Annotated[str | None, typer.Option(help=f"Will new labels come? {YES_NO}")] = None,
    forgetting: Annotated[str | None, typer.Option(help="The risk of it: low, medium or high.")] = None,
    drift: Annotated[str | None, typer.Option(help="How the world changes: slow or fast.")] = None,
    borders: Annotated[str | None, typer.Option(help=f"Tasks with known ends? {YES_NO}")] = None,
    store: Annotated[str | None, typer.Option(help=f"May examples be kept? {YES_NO}")] = None,
    undo: Annotated[str | None, typer.Option(help=f"Must each change be reversible? {YES_NO}")] = None,
    late: Annotated[str | None, typer.Option(help=f"Do labels come late? {YES_NO}")] = None,
    module: Annotated[str, typer.Option(help="The network to name in the spec: your_module:make_net.")] = "",
    write: Annotated[Path | None, typer.Option(help="Write the configuration for DATA to this file.")] = None,
    force: Annotated[bool, typer.Option(help="Replace a configuration file that exists.")] = False,
    toml: Annotated[bool, typer.Option("--toml", help="Print everlearn.toml and nothing else.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="Print all rules, as tables in Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Say which model, memory, gate and drift settings fit a situation, with reasons and dangers."""
    from everlearn import advise as rulebook
    from everlearn import config
    from everlearn.advise.situation import parse_answer

    if rules:
        print_json({"rules": rulebook.table()}) if as_json else sys.stdout.write(rulebook.table())
        return
    told = {
        "inputs": inputs, "model": model, "predicts": predicts, "frequency": frequency, "volume": volume,
        "new_classes": new_classes, "forgetting": forgetting, "drift": drift, "borders": borders, "store": store,
        "undo": undo, "late": late,
    }  # fmt: skip
    _check(data, label, write, force)
    schema, found = _looked(data, label) if data else (None, {})
    answers = found | {name: parse_answer(name, word) for name, word in told.items() if word is not None}
    if module:
        answers.setdefault("model", "small")
    if sys.stdin.isatty() and screen.is_terminal and not (as_json or toml):
        answers = _asked(answers)
    advice = _naming(rulebook.of(answers), module)
    spec = _sourced(advice.spec(schema), data, write)
    if write:
        config.save(spec, write)
    text = config.text(spec)
    if toml:
        sys.stdout.write(text)
    elif as_json:
        wrote = {"toml": text, "config": str(write) if write else ""}
        print_json(msgspec.to_builtins(advice) | {"from_data": sorted(found)} | wrote)
    else:
        screen.print(page(advice, text, answers, found))
        screen.print(_next(write, schema is not None), highlight=False, soft_wrap=True)
        if module and schema is not None:
            _try(spec)


def page(advice: Advice, toml: str, answers: dict[str, Any], found: dict[str, Any]) -> RenderableType:
    """The advice as something to look at; `found` are those of the answers that the data gave."""
    parts: list[RenderableType] = [
        Panel(Text(advice.title, "bold"), title="advice", title_align="left", border_style="green", expand=False),
        _situation(advice, answers, found),
        _reasons(advice),
    ]
    if advice.dangers:
        parts += [_heading("Known dangers", "yellow"), _list(("!", "yellow", one) for one in advice.dangers)]
    if advice.rejected:
        rejected = (("✗", "red", f"[bold]{escape(one.alternative)}[/]: {escape(one.why)}") for one in advice.rejected)
        parts += [_heading("Not advised", "red"), _list(rejected, markup=True)]
    settings = toml.split("\n\n", 1)[1].rstrip()  # without the comment at its head
    parts += [
        _heading("everlearn.toml", "cyan"),
        Padding(Syntax(settings, "toml", theme="ansi_dark", background_color="default"), (0, 2)),
    ]
    if advice.then:
        parts += [_heading("Then", "cyan"), _list(("$", "cyan", command) for command in advice.then)]
    return Group(*parts)


def _situation(advice: Advice, answers: dict[str, Any], found: dict[str, Any]) -> RenderableType:
    """What was said, found in the data and assumed, where it matters."""
    from everlearn.advise.situation import QUESTIONS, as_word

    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    lines: dict[str, list[str]] = {"you said": [], "the data say": [], "assumed": []}
    for one in QUESTIONS:
        if one.name in advice.assumed or one.name in answers:
            origin = "assumed" if one.name in advice.assumed else "the data say" if one.name in found else "you said"
            word = as_word(getattr(advice.situation, one.name))
            lines[origin].append(f"{one.name.replace('_', ' ')}\u00a0[bold]{escape(word)}[/]")
    for origin, words in lines.items():
        if words:
            grid.add_row(origin, ", ".join(words))
    return Padding(grid, (1, 2))


def _reasons(advice: Advice) -> Table:
    from everlearn.advise import written

    table = Table(box=box.SIMPLE_HEAD, pad_edge=True, expand=False, show_edge=False, padding=(0, 1), show_lines=False)
    table.add_column("setting", style="green", ratio=5)
    table.add_column("because", ratio=3)
    table.add_column("why", ratio=8)
    for reason in advice.reasons:
        because = "\n".join(f"{name.replace('_', ' ')}: {word}" for name, word in reason.because.items())
        why = Text(reason.why)
        if reason.source:
            why.append(f"  {reason.source}", "dim italic")
        table.add_row(Text("\n".join(written(reason.settings))), because, why)
        table.add_section()
    return table


def _heading(words: str, style: str) -> Text:
    return Text(f"\n {words}", f"bold {style}")


def _list(items: Iterable[tuple[str, str, str]], markup: bool = False) -> Padding:
    """Lines with a mark before each; what does not fit a line goes on under its own beginning."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for mark, style, words in items:
        grid.add_row(Text(mark, f"bold {style}"), Text.from_markup(words) if markup else Text(words))
    return Padding(grid, (0, 2))


def _next(write: Path | None, fits: bool) -> str:
    if write:
        return f"\nWrote {write}. Next: everlearn run{option(write)}"
    if fits:
        return "\n--write everlearn.toml writes the configuration; --toml prints it, --json prints all of this."
    return (
        "\nThe schema is an example: with DATA and --label it is that of your data, and --write writes the whole. "
        "--toml prints the configuration, --json all of this."
    )


def _try(spec: Spec) -> None:
    """Say what is missing until the user's network can be built for these data."""
    from everlearn import model
    from everlearn.schema import shape

    try:
        model.build(spec.model, shape(spec.schema))
    except EverlearnError as error:
        screen.print(f"[yellow]But first, in \\[model]:[/] {escape(str(error))}", highlight=False, soft_wrap=True)


def _check(data: str, label: str, write: Path | None, force: bool) -> None:
    if bool(data) != bool(label):
        got, missing = ("DATA", "--label COLUMN") if data else ("--label", "DATA")
        raise ConfigError(
            f"got {got} without {missing}; expected both, for instance everlearn advise data.csv --label y"
        )
    if write and not data:
        raise ConfigError("--write needs data to write a schema for: everlearn advise data.csv --label y --write ...")
    if write and write.exists() and not force:
        raise ConfigError(f"{write} exists already; name another with --write, or replace it with --force")


def _looked(data: str, label: str) -> tuple[Schema, dict[str, Any]]:
    """The schema of a data set, and the answers that it gives."""
    from everlearn import advise as rulebook
    from everlearn import stream

    read = stream.read(data, label=label)
    columns = rulebook.wide(read.schema)
    if columns >= WIDE:
        aside.print(
            f"{columns} numbers in a row: if they are pixels or a signal, say --inputs image or sequence",
            highlight=False,
        )
    return read.schema, rulebook.look(read.schema, read.rows)


def _naming(advice: Advice, module: str) -> Advice:
    """The same with the user's network in the spec, if it has one."""
    if not module:
        return advice
    if advice.model["family"] == "linear":
        raise ConfigError(f"--module names {module!r}, but the model is to be linear; say --model small, or large")
    model = dict(advice.model)
    if "model" in model:
        model["model"] = model["model"] | {"module": module}
    else:
        model["module"] = module
    return msgspec.structs.replace(advice, model=model)


def _sourced(spec: Spec, data: str, write: Path | None) -> Spec:
    """The same with the data as its source, as it is seen from the configuration file."""
    if not data or data == "-":
        return spec
    return msgspec.structs.replace(spec, source=os.path.relpath(data, write.parent if write else "."))


def _asked(answers: dict[str, Any]) -> dict[str, Any]:
    """Ask what is missing and matters, one question after the other; the end of input means: assume the rest."""
    from everlearn import advise as rulebook

    while open_ := rulebook.questions(answers):
        try:
            answers = answers | {open_[0].name: _answer(open_[0], answers)}
        except EOFError:
            break
    return answers


def _answer(question: AdviceQuestion, answers: dict[str, Any]) -> Any:
    """What the user says to a question; the beginning of a choice will do, and nothing is the default."""
    from everlearn import advise as rulebook
    from everlearn.advise.situation import parse_answer

    choices = f" [dim]{escape(' / '.join(question.choices))}[/]" if question.choices else ""
    prompt = f"[bold]{escape(question.text)}[/]{choices} [cyan]({question.default})[/] "
    while True:
        screen.print(prompt, end="", highlight=False)
        word = input().strip().lower()
        near = [one for one in question.choices if word and one.startswith(word)]
        value = parse_answer(question.name, near[0] if len(near) == 1 else word or question.default)
        try:
            rulebook.read(answers | {question.name: value})
        except ConfigError as error:
            screen.print(f"[yellow]{escape(str(error))}[/]", highlight=False)
            continue
        return value
