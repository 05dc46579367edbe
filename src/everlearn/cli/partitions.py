"""`everlearn run` with several learners: the progress, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.console import aside, print_json, screen
from everlearn.errors import ConfigError

if TYPE_CHECKING:
    from everlearn.loop.partitioned import Progress
    from everlearn.spec import Spec
    from everlearn.stream import Stream


def run(spec: Spec, home: Path, source: str, title: str, as_json: bool, late: Mapping[str, Any]) -> None:
    """Run files through several learners, and print one report.

    Raises `ConfigError` for late labels, which partitions do not have.
    """
    from everlearn import report, stream
    from everlearn.loop import partitioned

    if given := [name for name, value in late.items() if value not in (None, "")]:
        option = given[0].replace("_", "-")
        raise ConfigError(
            f"--{option}: got {late[given[0]]!r} with partitions.count = {spec.partitions.count}; expected none, since "
            "each partition has an order of its rows. Leave it out, or set partitions.count to 1"
        )
    partitioned.check(spec)
    rows = stream.read(source, schema=spec.schema)
    with partitioned.opened(spec, home, rows) as opened:
        with _progress(rows, quiet=as_json) as progress:
            result = opened.run(progress)
        result |= {"picture": "", "home": str(home)}
        path = home / "report.png"
        if opened.picture(path, title):
            result["picture"] = str(path)
        rejects = opened.scores.rejects
    if as_json:
        print_json(result)
        return
    screen.print(report.summary(result))
    for one in result["partitions"]:
        line = f"  partition {one['partition']}: {one['rows']:,} rows, {one['cpu_seconds']:.2f} s of processor time"
        screen.print(line, highlight=False)
    screen.print(f"  {result['merges']:,} merges, the last after row {opened.at:,}", highlight=False)
    for row in rejects[:10]:
        screen.print(f"  rejected: {row.source} line {row.line}: {row.reason}", highlight=False, markup=False)
    if result["rejected"] > 10:
        screen.print(f"  ... and {result['rejected'] - 10:,} more")
    if not result["rows"]:
        screen.print("nothing new: all rows were learned already")
    if result["picture"]:
        screen.print(f"picture: {result['picture']}", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _progress(stream: Stream, quiet: bool) -> Iterator[Progress | None]:
    """Show a bar of rows; yield None if standard error is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if quiet or not aside.is_terminal:
        yield None
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(TextColumn(stream.name), *columns, console=aside, transient=True) as bars:
        task = bars.add_task("", total=stream.rows)

        def show(rows: int) -> None:
            bars.update(task, completed=rows)

        yield show
