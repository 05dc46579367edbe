"""The command `bench`: compare models on the rows of a file, beside naive baselines and other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from everlearn.cli.console import Json, aside, print_json, screen
from everlearn.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlearn.evaluate.comparing import StreamComparison
    from everlearn.stream import Stream

OURS: dict[str, dict[str, Any]] = {
    "auto": {"family": "auto"},
    "linear": {"family": "linear"},
    "tree": {"family": "tree"},
    "forest": {"family": "forest"},
    "mondrian": {"family": "mondrian"},
    "mix": {"family": "mix", "members": [{"family": "linear"}, {"family": "forest"}, {"family": "last"}]},
}
NAMED = {name: {"family": name} for name in ("naive_bayes", "passive_aggressive", "neighbours")}
"""Models of ours that run only where `--models` names them."""
CLASSES_ONLY = ("mondrian", "naive_bayes", "sklearn:bayes")
CHUNK = 200  # rows that all models take in turn; after each, those without time left stop


def bench(
    data: Annotated[str, typer.Argument(help="A CSV, Parquet or JSON-lines file, or a glob of them.")],
    label: Annotated[str, typer.Option(help="The column to predict.")] = "",
    models: Annotated[str, typer.Option(help="The models, with commas between; see the reference.")] = "",
    delay: Annotated[int, typer.Option(help="Labels come this many rows late.")] = 0,
    rows: Annotated[int, typer.Option(help="Take the first rows only; 0 takes all.")] = 0,
    seconds: Annotated[float, typer.Option(help="CPU seconds for each model.")] = 20.0,
    picture: Annotated[Path, typer.Option(help="Write the picture to this file.")] = Path("bench.png"),
    as_json: Json = False,
) -> None:
    """Compare models on your own rows.

    Each model predicts each row before it learns it, in the order of the file. Prints accuracy, log loss, kappas or
    errors, rows per CPU second, memory, and the interval of the loss above the best model; writes a picture. A model
    that runs out of time stops, and is compared on the rows it reached.
    """
    from everlearn import stream
    from everlearn.evaluate import comparing

    if not label:
        names = ", ".join(list(stream.source_of(data, peek=0).names)[:20])
        raise ConfigError(f"bench: got no --label; expected the column to predict, one of {names}")
    if delay < 0 or rows < 0 or not seconds > 0.0:
        raise ConfigError(
            f"bench: got --delay {delay}, --rows {rows} and --seconds {seconds:g}; expected a delay and rows from 0, "
            "and seconds above 0"
        )
    opened = stream.read(data, label=label)
    chosen = _chosen(models, opened.schema.task == "regression")
    taken = opened.first(rows) if rows else opened
    with _progress(taken, quiet=as_json) as progress:
        result = comparing.compare(chosen, taken, delay, CHUNK, seconds=seconds, progress=progress)
    result.plot(picture)
    if as_json:
        print_json(result.to_dict() | {"picture": str(picture)})
    else:
        _show(result, seconds, picture)


def _chosen(words: str, regression: bool) -> dict[str, Any]:
    """Return the models to compare; by default ours and the peers that are installed.

    Raises `ConfigError` for an unknown name, or one whose library is not installed.
    """
    from everlearn.evaluate import peers

    known, here = [*OURS, *NAMED, *peers.PEERS], peers.installed()
    fitting = [name for name in (*OURS, *here) if not (regression and name in CLASSES_ONLY)]
    names = [word.strip() for word in words.split(",") if word.strip()] or fitting
    for name in names:
        if name not in known:
            raise ConfigError(f"--models: got {name!r}; expected some of {', '.join(known)}{did_you_mean(name, known)}")
        if name in peers.PEERS and name not in here:
            library = "scikit-learn" if name.startswith("sklearn") else "river"
            raise ConfigError(f"--models: got {name!r}, whose library is missing. Run: pip install {library}")
    own = OURS | NAMED
    return {name: own[name] if name in own else peers.maker(name) for name in dict.fromkeys(names)}


@contextmanager
def _progress(stream: Stream, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Show how many rows are done, on standard error; nothing where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if quiet or not aside.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=aside, transient=True) as bar:
        task = bar.add_task("rows", total=stream.rows)
        yield lambda rows: bar.update(task, completed=rows)


def _show(result: StreamComparison, seconds: float, picture: Path) -> None:
    """Print the table, and notes on what it means."""
    from everlearn.evaluate.drawing import LOSS_NAMES

    late = f", labels {result.delay:,} rows late" if result.delay else ""
    screen.print(f"\n[bold]{escape(result.name)}[/]: {result.rows:,} rows{late}, each predicted before it is learned")
    screen.print(result)
    given: dict[str, list[str]] = {}
    for name, cost in result.costs.items():
        given.setdefault(cost.reads, []).append(name)
    for reads, names in given.items():
        screen.print(f"[dim]{escape(', '.join(names))}: {escape(reads)}[/]", highlight=False)
    short = {name: cost.rows for name, cost in result.costs.items() if cost.rows < result.rows}
    if short:
        screen.print(
            f"[yellow]out of time after {seconds:g} CPU seconds[/]: metrics of the rows that were reached. On these:",
            highlight=False,
        )
    for name, rows in short.items():
        own, best = result.same_rows(name, result.best)
        words = f"  {rows:,} rows: {LOSS_NAMES[result.loss]} {own:.4f} of {name}, {best:.4f} of {result.best}"
        screen.print(words, highlight=False, markup=False)
    for name, why in result.failures.items():
        screen.print(f"[red]failed:[/] {escape(name)}: {escape(why)}", highlight=False)
    screen.print(
        f"[dim]Time is CPU time of predicting and learning, without reading the file. Intervals hold for all pairs "
        f"together with {1 - result.alpha:.0%}.[/]\nWrote {escape(str(picture))}",
        highlight=False,
    )
