"""The commands around a loop: demo, init, run, check."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from everlearn.cli import homes, server
from everlearn.cli.console import TOML, Config, Json, aside, home_of, option, print_json, screen
from everlearn.errors import ConfigError

if TYPE_CHECKING:
    from everlearn.loop.loop import Loop, Progress
    from everlearn.schema.guessing import Survey
    from everlearn.spec import Spec
    from everlearn.stream import Stream

JOBS = ("anomaly", "forecast", "bandit")  # tasks with a model each
TASKS = (*JOBS, "regression", "classes")  # that `init` takes; else the label says
WARM_ROWS, WARM_PART, WARM_FEWEST = 500, 20, 50  # a warm start: at most, one row in, and not on fewer


def demo(
    folder: Annotated[Path, typer.Option(help="Keep the files of the demo in this folder.")] = Path("everlearn-demo"),
    mode: Annotated[Literal["gated", "live"], typer.Option(help="The mode of the loop; see the tutorial.")] = "live",
    to_serve: Annotated[
        bool, typer.Option("--serve", help="Train on the first tenth only, then serve over HTTP.")
    ] = False,
    port: Annotated[int, typer.Option(help="The port of --serve; 0 selects a free one.")] = 8000,
    preference: Annotated[
        bool, typer.Option("--preference", help="A tiny language model learns from preferences instead.")
    ] = False,
    labels: Annotated[int, typer.Option(help="The number of judgements of --preference.")] = 128,
    seed: Annotated[int, typer.Option(help="The seed of --preference.")] = 0,
    shuffled: Annotated[
        bool, typer.Option("--shuffled", help="Exchange the judgements of --preference, so that they say nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the whole loop on a real stream that drifts.

    Prints a report, and draws the accuracy of the champion beside that of the frozen start. With --preference, a tiny
    language model is made on the spot, and a simulated annotator teaches it to be kind.
    """
    import shutil

    if preference:
        from everlearn.cli import preferences

        preferences.demo(folder, labels, seed, shuffled, to_serve, port, as_json)
        return

    import pyarrow.parquet

    from everlearn import config, stream
    from everlearn.loop.home import held
    from everlearn.loop.loop import Loop
    from everlearn.spec import ServeSpec

    name = f"serve-{mode}" if to_serve else mode
    path = folder / f"{name}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / f"{name}.home"
    if to_serve and home.exists():
        aside.print(f"Resuming {home}. Delete it to start over.", highlight=False)
        spec = config.load(path)
        server.start(msgspec.structs.replace(spec, serve=ServeSpec(port=port)), home)
        return
    with held(home):  # refuse if another process has the home open
        shutil.rmtree(home, ignore_errors=True)  # the demo always starts from the beginning
    with as_file(files("everlearn") / "data" / "elec2.parquet") as data:
        spec = msgspec.structs.replace(
            _inferred(stream.read(data, label="label"), str(data), path), mode=mode, warm_start=0.1, home=home.name
        )
        if not to_serve:
            config.save(spec, path)
            _run(path, spec, data, "electricity price: up or down?", as_json)
            return
        rows = stream.read(data, schema=spec.schema)
        first = int(spec.warm_start * (rows.rows or 0))
        spec = msgspec.structs.replace(spec, warm_start=first, source="", serve=ServeSpec(port=port))
        config.save(spec, path)
        with Loop(spec, home) as loop:
            loop.run(stream.read(pyarrow.parquet.read_table(data).slice(0, first), schema=spec.schema))
    server.start(spec, home)


def init(
    data: Annotated[str, typer.Argument(help="A CSV, Parquet or JSON-lines file, or a glob of them.")] = "",
    label: Annotated[str, typer.Option(help="The column to predict.")] = "",
    language_model: Annotated[
        str, typer.Option("--model", help="A causal language model: a folder, or a name on the Hub.")
    ] = "",
    prompts: Annotated[
        Path | None, typer.Option(help="With --model: a file of prompts, to set the limit by the longest.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="anomaly: find unusual rows, without labels; forecast: predict LABEL at times ahead; bandit: choose "
            "actions, from logged rows of actions and rewards; regression or classes: predict LABEL as a number, or as "
            "one of its values. Default: what the label says."
        ),
    ] = "",
    action: Annotated[str, typer.Option(help="With --task bandit: the column of the action that was taken.")] = "",
    propensity: Annotated[
        str, typer.Option(help='With --task bandit: the column of its probability, or "uniform".')
    ] = "",
    config_path: Config = TOML,
    force: Annotated[bool, typer.Option(help="Overwrite an existing configuration file.")] = False,
    as_json: Json = False,
) -> None:
    """Infer a schema from a data file and write everlearn.toml.

    Prints each column with its kind, examples and the reason, also those that are left out. Check them before the first
    run. The first rows of the file, one in twenty
    and at most 500, are a warm start: they train the first version before anything is served. With --model, the file
    is for a language model that learns from preferences. With --task bandit, the label is the reward of an action.
    """
    from everlearn import config, stream
    from everlearn.cli import surveying
    from everlearn.config import default_model
    from everlearn.schema import shape

    _check_task(task, data, action, propensity)
    _check_data(data, label, task, language_model, bool(prompts))
    about = stream.about(data, label) if data else language_model  # refuses what cannot be read before all else
    if config_path.exists() and not force:
        raise ConfigError(
            f"{config_path} exists already, so nothing was written about {about}; choose another path with "
            "--config, or overwrite it with --force"
        )
    if language_model:
        from everlearn.cli import preferences

        preferences.init(language_model, prompts, config_path, as_json)
        return
    spec, survey = _read(data, label, task, (action, propensity), config_path)
    config_path.write_text(config.text(spec) + surveying.comments(survey), encoding="utf-8")
    if as_json:
        found = {"schema": msgspec.to_builtins(spec.schema), "warm_start": int(spec.warm_start)}
        print_json({"config": str(config_path), **found, **surveying.plain(survey)})
        return
    schema = spec.schema
    screen.print(f"[bold]{escape(about)}[/]: predict {escape(schema.label)} ({schema.task})", highlight=False)
    surveying.show(survey)
    if task not in JOBS and (why := default_model.chosen(schema.task, shape(schema))[1]):
        screen.print(f"model: the linear model alone, since there are {why}", highlight=False, soft_wrap=True)
    if spec.warm_start:
        screen.print(f"warm start: the first {spec.warm_start:.0f} rows train the model offline", highlight=False)
    screen.print(f"Wrote {config_path}. Next: everlearn run{option(config_path)}", highlight=False, markup=False)


def run(
    source: Annotated[
        str, typer.Argument(help="A file, a glob, or - for standard input; default: `source` of the configuration.")
    ] = "",
    config_path: Config = TOML,
    label: Annotated[str, typer.Option(help="The column to predict; needed to create a missing configuration.")] = "",
    warm_start: Annotated[
        float | None, typer.Option(help="Train offline first, on this share (below 1) or number of rows.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over a file of judged pairs, for the policy; default: 1.")
    ] = None,
    by: Annotated[str, typer.Option("--source", help="The source of its judgements; default: people/NAME.")] = "",
    delay: Annotated[int | None, typer.Option(help="Give each label this many rows late.")] = None,
    label_time: Annotated[str, typer.Option(help="Give each label at the time in this column.")] = "",
    row_time: Annotated[
        str, typer.Option(help="With --label-time: the column of the rows' times; default: the first datetime field.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Run files or standard input through the loop.

    Resumes where the last run stopped, and prints a report. With --delay or --label-time, each row is predicted, and
    its label comes later. For a language model, SOURCE is a file of judged pairs, in the columns prompt, chosen and
    rejected.
    """
    from everlearn import config, stream
    from everlearn.loop.late_rows import label_delay

    if source.endswith(".toml"):
        config_path, source = Path(source), ""
    if not config_path.exists() and source and label:
        if source == "-":
            raise ConfigError(f"standard input can be read only once; create {config_path} first with `everlearn init`")
        from everlearn.cli import surveying

        opened = stream.read(source, label=label)
        _check_pair_options(opened.schema.task, epochs, by)
        made = config.text(_without(_inferred(opened, source, config_path), label_time))
        config_path.write_text(made + (surveying.comments(opened.survey) if opened.survey else ""), encoding="utf-8")
        aside.print(f"Wrote {config_path}. Check it, and correct what was inferred wrongly.", highlight=False)
    spec = config.load(config_path)
    _check_pair_options(spec.schema.task, epochs, by)
    if label and label != spec.schema.label:
        raise ConfigError(
            f"--label: got {label!r}; expected {spec.schema.label!r}, the label in {config_path}. "
            "Choose another configuration with --config."
        )
    if warm_start is not None:
        spec = msgspec.structs.replace(spec, warm_start=warm_start)
    if not (source or spec.source):
        raise ConfigError(f"nothing to run: give SOURCE, or set `source` in {config_path}")
    where = source or ("-" if spec.source == "-" else str(config_path.parent / spec.source))
    late: dict[str, Any] = {"delay": delay, "label_time": label_time, "row_time": row_time}
    label_delay(spec.schema, **late)  # refuses what contradicts the schema, before anything is opened
    if spec.schema.task == "preference":
        from everlearn.cli import preferences

        preferences.run(spec, config.home(spec, config_path), where, 1 if epochs is None else epochs, by, as_json)
        return
    if spec.partitions.count > 1:
        from everlearn.cli import partitions

        partitions.run(spec, config.home(spec, config_path), where, spec.schema.label, as_json, late)
        return
    _run(config_path, spec, where, spec.schema.label, as_json, **late)


def check(
    target: Annotated[str, typer.Argument(help="A model family, or your_module:build.")] = "",
    spec: Annotated[str, typer.Option(help="Further settings of the model, as a JSON object.")] = "{}",
    home: Annotated[
        bool, typer.Option("--home", help="List the settings of the home that this release would give another value.")
    ] = False,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Test a model family against the contract, or the settings of a home against this release.

    Prints the result of each check, and exits with status 1 if one fails. With --home nothing is changed, and a server
    may run.
    """
    from everlearn import checks, config, model

    if home == bool(target):
        raise ConfigError(f"check: got TARGET {target!r} and --home {home}; expected one of the two")
    if home:
        from everlearn.loop.upgrade import differences

        settings = config.load(config_path)
        folder = home_of(settings, config_path)
        homes.print_differences(differences(folder, settings), folder, as_json)
        return
    try:
        more = msgspec.json.decode(spec, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"--spec: got {spec!r}; expected a JSON object: {error}") from error
    whole = {"task": "binary", "dense": 4, "hashed": 64, "classes": 2, "family": target, **more}
    model.find(target)
    results = checks.run(lambda: model.build(whole), spec=whole)
    if as_json:
        print_json({"ok": all(result.ok for result in results), "checks": [asdict(result) for result in results]})
    else:
        table = Table("check", "result", "message", box=box.SIMPLE_HEAD)
        for result in results:
            verdict = "[green]passed[/]" if result.ok else "[bold red]failed[/]"
            table.add_row(result.name, verdict, escape(result.message))
        screen.print(table)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _check_pair_options(task: str, epochs: int | None, by: str) -> None:
    """Raise ConfigError for options of files of judged pairs in a run of another task."""
    given = [name for name, value in (("--epochs", epochs), ("--source", by)) if value not in (None, "")]
    if given and task != "preference":
        raise ConfigError(
            f"{given[0]}: got it for a {task} task; it is for files of judged pairs, which expect the task "
            "'preference'. Leave it out"
        )


def _read(data: str, label: str, task: str, logged: tuple[str, str], config_path: Path) -> tuple[Spec, Survey]:
    """Return the settings for a file, and what was found in it; `logged` names the columns of actions."""
    from everlearn import stream
    from everlearn.cli import tasks

    if task == "bandit":
        from everlearn.cli import bandits

        return bandits.inferred(data, label, *logged, config_path)
    kind = {"anomaly": "anomaly", "forecast": "regression", "classes": "multiclass"}.get(task, task or None)
    opened = stream.read(data, label=label or None, task=kind)  # type: ignore[arg-type]
    if task == "classes" and len(opened.schema.classes) == 2:
        opened = stream.read(data, label=label, task="binary")
    assert opened.survey is not None  # of a stream that was read without a schema
    spec, survey = _inferred(opened, data, config_path, task), opened.survey
    if task == "forecast":
        survey = dataclasses.replace(survey, notes=(*survey.notes, *tasks.series(opened)))
    return spec, survey


def _check_data(data: str, label: str, task: str, language_model: str, prompts: bool) -> None:
    """Raise ConfigError for a file without a label, with the names of its columns, and for neither file nor model."""
    from everlearn import stream

    needed = bool(data) and task != "anomaly"
    wrong = bool(label) < needed or (label and not data) or (prompts and not language_model)
    if bool(language_model) != bool(data) and not wrong:
        return
    columns = ""
    if data and not label and not language_model and Path(data).exists():
        names = stream.columns(data)
        shown = ", ".join(map(repr, names[:50])) + (", ..." if len(names) > 50 else "")
        columns = f". The columns of {data} are {shown}"
    raise ConfigError(
        f"init: got DATA {data!r}, --label {label!r} and --model {language_model!r}; expected DATA with --label "
        "for rows of a file, DATA with --task anomaly for rows without labels, or --model NAME, with or without "
        f"--prompts, for a language model{columns}"
    )


def _check_task(task: str, data: str, action: str, propensity: str) -> None:
    """Raise ConfigError for an unknown task, options of logged actions without theirs, or that task without them."""
    given = [name for name, value in (("--action", action), ("--propensity", propensity)) if value]
    if task not in ("", *TASKS) or (task and not data):
        raise ConfigError(
            f"init: --task: got {task!r}; expected one of {', '.join(TASKS)} with DATA, or no task, which the label "
            "then says"
        )
    if task == "bandit" and len(given) < 2:
        missing = "--propensity" if action else "--action"
        raise ConfigError(
            f"{missing}: missing; expected --action COLUMN and --propensity COLUMN for the task 'bandit'. Where all "
            "actions had the same probability, give --propensity uniform"
        )
    if given and task != "bandit":
        raise ConfigError(f"{given[0]}: got it without --task bandit. Add that, or leave it out")


def _without(spec: Spec, column: str) -> Spec:
    """Return a spec whose schema does not have a column of times of labels, which a model must not see."""
    schema = spec.schema
    tables = {
        setting: {name: value for name, value in held.items() if name != column}
        for setting in ("fields", "origin", "missing", "decimal")  # `dates` says how the column is read
        if isinstance(held := getattr(schema, setting), dict)
    }
    return msgspec.structs.replace(spec, schema=msgspec.structs.replace(schema, **tables))


def _run(
    path: Path,
    spec: Spec,
    source: str | Path,
    title: str,
    as_json: bool,
    *,
    delay: int | None = None,
    label_time: str = "",
    row_time: str = "",
) -> None:
    from everlearn import config, report, stream
    from everlearn.cli import tasks
    from everlearn.feedback import names
    from everlearn.loop.loop import Loop

    home = config.home(spec, path)
    # A home has its own rules by which files are read; without one, a file that cannot be read must not make it.
    rows = None if home.exists() else stream.read(source, schema=spec.schema)
    with Loop(spec, home) as loop:
        rows = rows or stream.read(source, schema=loop.spec.schema)
        with _progress(rows, quiet=as_json) as progress:
            result = loop.run(rows, progress, delay=delay, label_time=label_time, row_time=row_time)
        result |= {"picture": "", "home": str(home)}
        if result["examples"] and spec.schema.unlabelled is None:  # the log loss of ranks says nothing
            result["picture"] = str(home / "report.png")
            loop.picture(result["picture"], title)
            Path(result["picture"]).chmod(0o600)
        if as_json:
            print_json(result)
            return
        measured = dict(result["metrics"])
        if loop.spec.mode == "live":
            del measured["challenger"]  # in live mode it is the champion
        if spec.schema.unlabelled is not None and spec.schema.label not in rows.names:
            tasks.show_alerts(spec, rows, result)
        else:
            if spec.model["family"] == "anomaly":
                measured = tasks.of_ranks(measured)
            screen.print(report.summary(result | {"metrics": measured}))
        for line in names.lines(result["fields"]):
            screen.print(f"  {line}", highlight=False, markup=False)
        for note in _notes(loop, measured):
            screen.print(note, highlight=False)
        for number, row in enumerate(loop.rejected()):
            if number == 10:
                screen.print(f"  ... and {result['rejected'] - 10:,} more")
                break
            screen.print(f"  rejected: {row.source} line {row.line}: {row.reason}", highlight=False, markup=False)
        if not result["rows"]:
            screen.print("nothing new: all rows are in the log already")
        if result["picture"]:
            screen.print(f"picture: {result['picture']}", highlight=False, soft_wrap=True, markup=False)


def _notes(loop: Loop, measured: dict[str, dict[str, float]]) -> list[str]:
    """Return what a user should know about the model that serves, beside its metrics."""
    spec, roster = loop.spec, loop.fold.roster
    if spec.mode == "live" and roster.contestants and not roster.serves_learner:
        return [
            "Learning is paused after too many rollbacks: what serves stays as it is until the gate shows the model "
            "that learns on to be better, or until you promote a version. See [bold]everlearn versions[/]."
        ]
    name = "accuracy" if "accuracy" in measured["champion"] else "mae"
    found = [measured[role].get(name) for role in ("champion", "challenger") if role in measured]
    if spec.mode == "live" or roster.serves_learner or len(found) < 2 or None in found:
        return []
    served, learner = (f"{value:.3f}" if name == "accuracy" else f"{value:.4g}" for value in found if value is not None)
    if roster.snapshots:
        return [
            f"Only frozen snapshots may serve. Served here: {name} {served}; the model that learns on: {learner}. The "
            'difference is the price of [bold]gate.promote = "snapshot"[/].'
        ]
    return [
        f"A frozen version serves until the gate shows the model that learns on to be better. So far: {name} {served} "
        f"and {learner}."
    ]


@contextmanager
def _progress(stream: Stream, quiet: bool) -> Iterator[Progress | None]:
    """Show a bar with the rate and the champion's metric; yield None if standard error is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if quiet or not aside.is_terminal:
        yield None
        return
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn()
    with Progress(TextColumn(stream.name), *columns, console=aside, transient=True) as bars:
        task = bars.add_task("", total=stream.rows, note="")

        def show(rows: int, loop: Loop) -> None:
            monitor = loop.fold.monitor
            reported, name = monitor.report()["champion"], monitor.headline
            metric = f"champion {name} {reported[name]:.4f}" if name in reported else ""
            speed = bars.tasks[0].speed
            rate = f"{speed:,.0f}/s " if speed else ""
            bars.update(task, completed=rows, note=rate + metric)

        yield show


def _inferred(stream: Stream, source: str, path: Path, task: str = "") -> Spec:
    """Return the spec for a stream, to be written to `path`, with the source relative to that file.

    `task` is "anomaly", "forecast", or "" for any other.

    Of a file, the first rows are a warm start, unless they are too few to train on.
    """
    from everlearn.cli import tasks
    from everlearn.config import default_model
    from everlearn.schema import shape
    from everlearn.spec import Spec

    warm = min(WARM_ROWS, (stream.rows or 0) // WARM_PART)
    model, _ = default_model.chosen(stream.schema.task, shape(stream.schema))
    spec = Spec(
        schema=stream.schema,
        model=model,
        source=source if source == "-" else os.path.relpath(source, path.parent),
        warm_start=float(warm if warm >= WARM_FEWEST else 0),
        ignore=tuple(stream.survey.left_out) if stream.survey else (),
    )
    return tasks.chosen(spec, task) if task in ("anomaly", "forecast") else spec
