"""The command `advise`: collect answers from options, data and questions on a terminal, and print the advice."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from everlearn.spec import Spec
    from everlearn.stream import Stream

YES_NO = "yes or no."
WIDE = 64  # dense columns from which on rows are perhaps images or signals, not a table


def advise(
    data: Annotated[str, typer.Argument(help="A data file, from which some answers are derived.")] = "",
    label: Annotated[str, typer.Option(help="The column of DATA to predict.")] = "",
    inputs: Annotated[str | None, typer.Option(help="The kind of a row: table, text, image or sequence.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model: any, linear, small, large, or a number of parameters.")
    ] = None,
    predicts: Annotated[str | None, typer.Option(help="The label: classes or number.")] = None,
    frequency: Annotated[
        str | None, typer.Option(help="Updates: streaming, daily, weekly, monthly, on-demand or periodic.")
    ] = None,
    volume: Annotated[str | None, typer.Option(help="Labelled rows per update; for streaming, per day.")] = None,
    new_classes: Annotated[str | None, typer.Option(help=f"Will new classes appear? {YES_NO}")] = None,
    forgetting: Annotated[str | None, typer.Option(help="The risk of forgetting: low, medium or high.")] = None,
    drift: Annotated[str | None, typer.Option(help="The speed of drift: slow or fast.")] = None,
    borders: Annotated[str | None, typer.Option(help=f"Tasks with known boundaries? {YES_NO}")] = None,
    store: Annotated[str | None, typer.Option(help=f"May examples be stored? {YES_NO}")] = None,
    undo: Annotated[str | None, typer.Option(help=f"Must every change be reversible? {YES_NO}")] = None,
    late: Annotated[str | None, typer.Option(help="Do labels arrive late? yes, no, or by how many rows.")] = None,
    module: Annotated[str, typer.Option(help="The network to use: your_module:make_net.")] = "",
    write: Annotated[Path | None, typer.Option(help="Write the configuration for DATA to this file.")] = None,
    force: Annotated[bool, typer.Option(help="Overwrite an existing configuration file.")] = False,
    measured: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure candidates on the first rows of DATA.")
    ] = True,
    toml: Annotated[bool, typer.Option("--toml", help="Print the configuration only.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="Print all rules as Markdown tables.")] = False,
    as_json: Json = False,
) -> None:
    """Recommend settings for a situation.

    Takes answers from options, from DATA and, on a terminal, from questions. Prints the recommended model, replay, gate
    and drift settings, with reasons and dangers.
    """
    from everlearn import advise as rulebook
    from everlearn import config
    from everlearn.advise.situation import parse_answer

    if rules:
        print_json({"rules": rulebook.table()}) if as_json else sys.stdout.write(rulebook.table())
        return
    given = {
        "inputs": inputs, "model": model, "predicts": predicts, "frequency": frequency, "volume": volume,
        "new_classes": new_classes, "forgetting": forgetting, "drift": drift, "borders": borders, "store": store,
        "undo": undo, "late": late,
    }  # fmt: skip
    _check(data, label, write, force)
    stream, found = _looked(data, label) if data else (None, {})
    given["late"], delay = _delayed(late)
    answers = found | {name: parse_answer(name, word) for name, word in given.items() if word is not None}
    if module:
        answers.setdefault("model", "small")
    if sys.stdin.isatty() and screen.is_terminal and not (as_json or toml):
        answers = _ask(answers)
    advice = _naming(rulebook.of(answers), module)
    schema = stream.schema if stream is not None else None
    figures = None
    if stream is not None and stream.replayable and measured and not module:
        advice, figures = _measured(advice, stream, delay)
    spec = _sourced(advice.spec(schema), data, write)
    if write:
        config.save(spec, write)
    _show(advice, spec, answers, found, write, figures, "toml" if toml else "json" if as_json else "page")
    if module and schema is not None and not (toml or as_json):
        _try(spec)


def _show(
    advice: Advice,
    spec: Spec,
    answers: dict[str, Any],
    found: dict[str, Any],
    write: Path | None,
    figures: Any,
    form: Literal["toml", "json", "page"],
) -> None:
    """Print the advice: the configuration alone, everything for programs, or a page for people."""
    from everlearn import config

    text = config.text(spec)
    if form == "toml":
        sys.stdout.write(text)
    elif form == "json":
        wrote = {"toml": text, "config": str(write) if write else ""}
        print_json(msgspec.to_builtins(advice) | {"from_data": sorted(found)} | wrote | {"measured": figures})
    else:
        screen.print(page(advice, text, answers, found))
        if figures is not None:
            screen.print(_figures(figures))
        screen.print(_next(write, "inputs" in found), highlight=False, soft_wrap=True)


def page(advice: Advice, toml: str, answers: dict[str, Any], found: dict[str, Any]) -> RenderableType:
    """Lay the advice out for a terminal; `found` holds the answers that come from the data."""
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
    """List the answers that matter, by origin: given, found in the data, or assumed."""
    from everlearn.advise.situation import QUESTIONS, as_word

    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    lines: dict[str, list[str]] = {"given": [], "from the data": [], "assumed": []}
    for question in QUESTIONS:
        if question.name in advice.assumed or question.name in answers:
            derived = "from the data" if question.name in found else "given"
            origin = "assumed" if question.name in advice.assumed else derived
            word = as_word(getattr(advice.situation, question.name))
            lines[origin].append(f"{question.name.replace('_', ' ')}\u00a0[bold]{escape(word)}[/]")
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
    """Lay out lines with a mark before each, indented where they wrap."""
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
        "\nThe schema is an example. Give DATA and --label to use the schema of your data; --write then writes the "
        "configuration. --toml prints it, --json prints all of this."
    )


def _try(spec: Spec) -> None:
    """Build the user's network for these data, and print the error if that fails."""
    from everlearn import model
    from everlearn.schema import shape

    try:
        model.build(spec.model, shape(spec.schema))
    except EverlearnError as error:
        screen.print(f"[yellow]Still missing, in \\[model]:[/] {escape(str(error))}", highlight=False, soft_wrap=True)


def _check(data: str, label: str, write: Path | None, force: bool) -> None:
    if bool(data) != bool(label):
        got, missing = ("DATA", "--label COLUMN") if data else ("--label", "DATA")
        raise ConfigError(
            f"got {got} without {missing}; expected both, for instance everlearn advise data.csv --label y"
        )
    if write and not data:
        raise ConfigError("--write needs DATA, to infer a schema from: everlearn advise data.csv --label y --write ...")
    if write and write.exists() and not force:
        raise ConfigError(f"{write} exists already; choose another path with --write, or overwrite it with --force")


def _delayed(late: str | None) -> tuple[str | None, int]:
    """Return the answer about late labels, and by how many rows they are late."""
    if late is None or not late.strip().isdecimal():
        return late, 0
    return ("yes" if int(late) else "no"), int(late)


def _measured(advice: Advice, stream: Stream, delay: int) -> tuple[Advice, Any]:
    """Return the advice as the measurement settles it, and the figures; None where a model cannot be measured."""
    from everlearn.evaluate import candidates

    try:
        found = candidates.measure(advice, stream, delay)
    except EverlearnError as error:
        aside.print(f"not measured: {error}", highlight=False, markup=False)
        return advice, None
    plain = msgspec.json.decode(msgspec.json.encode(found))
    return candidates.settled(advice, found), plain


def _figures(figures: dict[str, Any]) -> RenderableType:
    """Lay out the measured candidates and the naive baselines."""
    from everlearn import report

    found = figures["candidates"]
    names = [name for name in ("accuracy", "log_loss", "mae", "rmse") if name in found[0]["metrics"]]
    table = Table("model", *map(report.named, names), "loss above that", box=box.SIMPLE_HEAD)
    for one in found:
        known = one["low"] is not None and one is not found[0]
        more = f"{one['low']:+.4f} to {one['high']:+.4f}" if known else "–"
        table.add_row(one["name"], *(report.number(one["metrics"].get(name)) for name in names), more)
    for name, metrics in figures["baselines"].items():
        table.add_row(name.replace("_", " "), *(report.number(metrics.get(name)) for name in names), "", style="dim")
    late = f", labels {figures['delay']:,} rows late" if figures["delay"] else ""
    heading = _heading(f"Measured on the first {figures['rows']:,} rows{late}", "cyan")
    return Group(heading, table, Text(f" {figures['why']}"))


def _looked(data: str, label: str) -> tuple[Stream, dict[str, Any]]:
    """Return a data set, and the answers derived from it."""
    from everlearn import advise as rulebook
    from everlearn import stream

    read = stream.read(data, label=label)
    columns = rulebook.wide(read.schema)
    if columns >= WIDE:
        aside.print(
            f"each row has {columns} numbers; if they are pixels or a signal, use --inputs image or --inputs sequence",
            highlight=False,
        )
    return read, rulebook.look(read.schema, read.rows)


def _naming(advice: Advice, module: str) -> Advice:
    """Return the advice with the user's network in the model spec, if one is given."""
    if not module:
        return advice
    if advice.model["family"] == "linear":
        raise ConfigError(
            f"--module: got {module!r}, but the recommended model is linear; add --model small or --model large"
        )
    model = dict(advice.model)
    if "model" in model:
        model["model"] = model["model"] | {"module": module}
    else:
        model["module"] = module
    return msgspec.structs.replace(advice, model=model)


def _sourced(spec: Spec, data: str, write: Path | None) -> Spec:
    """Return the spec with the data as its source, relative to the configuration file."""
    if not data or data == "-":
        return spec
    return msgspec.structs.replace(spec, source=os.path.relpath(data, write.parent if write else "."))


def _ask(answers: dict[str, Any]) -> dict[str, Any]:
    """Ask the open questions that matter, one at a time; the end of input leaves the rest to assumptions."""
    from everlearn import advise as rulebook

    while open_ := rulebook.questions(answers):
        try:
            answers = answers | {open_[0].name: _answer(open_[0], answers)}
        except EOFError:
            break
    return answers


def _answer(question: AdviceQuestion, answers: dict[str, Any]) -> Any:
    """Ask one question until its answer is valid; accept a unique prefix of a choice, and nothing for the default."""
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
