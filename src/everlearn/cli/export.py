"""The commands that take a model out of a loop: show a tree, and export a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlearn.cli.console import TOML, Config, Json, home_of, print_json, screen
from everlearn.errors import InputError

if TYPE_CHECKING:
    from everlearn.export import FreezingCost
    from everlearn.loop.export import Taken
    from everlearn.spec import Spec

Version = Annotated[
    str,
    typer.Option(help="A stored version: an id, a prefix of one, an alias; default: the model that answers."),
]
Rows = Annotated[
    str | None,
    typer.Option(help="A file with labelled rows; default: the newest of the settings' source, or of the log."),
]
FORMS = (".txt", ".dot", ".svg", ".png", ".pdf")


def show(
    tree: Annotated[
        str, typer.Argument(help="The name of a tree, such as 3 or forest/3; without it, list all trees.")
    ] = "",
    depth: Annotated[int, typer.Option(min=0, max=12, help="Levels to show below the root.")] = 3,
    to: Annotated[
        Path | None, typer.Option(help="Write to this file: .svg, .png, .pdf, .dot (Graphviz) or .txt.")
    ] = None,
    version: Version = "",
    rows: Rows = None,
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Show a tree of the model: as text, or as a picture in a file.

    Works while a server runs. Categories and words are named as far as the rows show them.
    """
    from everlearn import config, export
    from everlearn.families import frozen

    spec = config.load(config_path)
    if to is not None and to.suffix not in FORMS:
        raise InputError(f"--to: got {to.name!r}; expected a name that ends with one of {', '.join(FORMS)}")
    taken = _taken(spec, config_path, version)
    known = export.trees(taken.model)
    frozen.tree(taken.model, tree or 0)  # raises for a model without trees, and an unknown name
    if not tree:
        _list_trees(taken, known, as_json)
        return
    entries = _entry_names(spec, config_path, rows)
    shown = taken.model, spec.schema
    if to is None or to.suffix == ".txt":
        written = export.text(*shown, tree, depth, entries)
    elif to.suffix == ".dot":
        written = export.dot(*shown, tree, depth, entries)
    else:
        export.picture(*shown, to, tree, depth, entries)
        written = ""
    if to is not None and written:
        to.write_text(written + "\n", encoding="utf-8")
    if as_json:
        print_json({"version": taken.version, "tree": tree, "file": str(to) if to else None, "text": written})
    elif to is not None:
        screen.print(f"Wrote tree {tree} of version {taken.version} to {to}", highlight=False, markup=False)
    else:
        screen.print(written, highlight=False, markup=False, soft_wrap=True)


def export(
    target: Annotated[Path, typer.Argument(help="An empty or new folder to write; with --onnx or .jsonl a file.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write one ONNX file; implied by a name that ends with .onnx.")
    ] = False,
    rows: Rows = None,
    version: Version = "",
    config_path: Config = TOML,
    as_json: Json = False,
) -> None:
    """Write the model of a loop: as one ONNX file, or a language model as a folder for PEFT or transformers.

    Works while a server runs. Prints the version, and for ONNX what the constant answers of frozen leaves lose. A
    target that ends with .jsonl gets the rows of the log that have labels instead, for another home to learn.
    """
    from everlearn import config
    from everlearn.loop import export as taking

    spec = config.load(config_path)
    if target.suffix == ".jsonl":
        _write_rows(spec, target, config_path, as_json)
        return
    if onnx or target.suffix == ".onnx":
        _write_onnx(target, rows, version, config_path, as_json)
        return
    if rows is not None:
        raise InputError("--rows: got a file without --onnx; a folder needs no rows. Add --onnx, or leave --rows out")
    taken = _taken(spec, config_path, version)
    taking.write_folder(taken, target)
    files = sorted(one.name for one in target.iterdir())
    if as_json:
        print_json({"version": taken.version, "folder": str(target), "files": files})
    else:
        screen.print(f"Wrote version {taken.version} to {target}: {', '.join(files)}", highlight=False, markup=False)


def _write_rows(spec: Spec, target: Path, path: Path, as_json: bool) -> None:
    """Write the labelled rows of the log, and print their number."""
    from everlearn.loop import export as taking

    written = taking.write_rows(spec, home_of(spec, path), target)
    if as_json:
        print_json({"file": str(target), "rows": written})
    else:
        screen.print(f"Wrote {written:,} labelled rows to {target}", highlight=False, markup=False)


def _write_onnx(target: Path, source: str | None, version: str, path: Path, as_json: bool) -> None:
    """Write a model as ONNX, measure it on labelled rows, and print both."""
    from everlearn import config
    from everlearn import export as exports
    from everlearn.loop import export as taking

    spec = config.load(path)
    taken = _taken(spec, path, version)
    exports.onnx(taken.model, spec.schema, target, version=taken.version, ranges=taken.ranges)
    stream = taking.rows(spec, home_of(spec, path), source, path.parent)
    found = None
    if stream is not None:
        found = taking.measured(taken, spec, stream, taking.NEWEST if source is None else None)
    size = target.stat().st_size
    if as_json:
        measures = {
            name: {"model": was, "exported": now} for name, (was, now) in (found.measures if found else {}).items()
        }
        print_json({
            "version": taken.version, "file": str(target), "bytes": size, "rows": found.rows if found else 0,
            "measures": measures,
        })  # fmt: skip
        return
    screen.print(f"Wrote version {taken.version} to {target}: {size:,} bytes", highlight=False, markup=False)
    screen.print(_sentence(found, taken.model.spec), highlight=False, markup=False, soft_wrap=True)


def _sentence(found: FreezingCost | None, spec: Mapping[str, Any]) -> str:
    """Return what freezing leaves costs, and why these measures may be below those of the loop."""
    if found is None:
        return "No labelled rows to measure the file on; give some with --rows FILE"
    parts = [f"{name} {was:.4f}, exported {now:.4f}" for name, (was, now) in found.measures.items()]
    note = "Both predict these rows without learning them; the loop learns each row, and its measures may be better."
    if any(member.get("family") == "last" for member in spec.get("members", ())):
        note += " The newest label that the loop has seen counts as the last label of every row."
    return f"On {found.rows:,} rows: {'; '.join(parts)}\n{note}"


def _taken(spec: Spec, path: Path, version: str) -> Taken:
    """Return the model that answers, or a stored version."""
    from everlearn.app.admin.queries import LogQueries
    from everlearn.loop import export as taking

    home = home_of(spec, path)
    if not version:
        return taking.served(spec, home)
    with closing(LogQueries(home, spec.log)) as queries:
        return taking.stored(spec, home, queries.versions, version)


def _list_trees(taken: Taken, known: list[str], as_json: bool) -> None:
    """Print the names and sizes of all trees."""
    from everlearn.families import frozen

    sizes = [(name, frozen.tree(taken.model, name)) for name in known]
    if as_json:
        trees = [
            {"tree": name, "leaves": int((one.left < 0).sum()), "depth": int(frozen.depths(one).max())}
            for name, one in sizes
        ]
        print_json({"version": taken.version, "trees": trees})
        return
    for name, one in sizes:
        leaves, depth = int((one.left < 0).sum()), int(frozen.depths(one).max())
        screen.print(f"{name:<16} {leaves:>6,} leaves, depth {depth}", highlight=False, markup=False)


def _entry_names(spec: Spec, path: Path, source: str | None) -> dict[int, str]:
    """Return the meanings of hashed entries, where the schema hashes any."""
    from everlearn import export as exports
    from everlearn.loop import export as taking
    from everlearn.schema.layout import HASHED

    if not any(kind in HASHED for kind in spec.schema.fields.values()):
        return {}
    stream = taking.rows(spec, home_of(spec, path), source, path.parent)
    if stream is None:
        return {}
    return exports.entry_names(spec.schema, (record for part in stream.records() for record in part.features))
