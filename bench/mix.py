"""What a mix is worth beside its members: accuracy and log loss, with labels at once and late.

    python bench/mix.py [NAME ...] [--delays 0 100 1000] [--forest] [--mondrian] [--auto] [--rows N]
    python bench/mix.py --price 0.1 [NAME ...] --rows 50000     # the members of `auto`: all learn, or some rest
    python bench/mix.py --numbers     # regression: losses of members, and of mixes without and with `mondrian`

`--forest` adds a forest of ten trees to the families and to the mix, `--mondrian` a Mondrian forest. The streams are
the Parquet files in $EVERLEARN_DATA, or in the folder shared/data beside the checkout. All settings are the defaults.
Each row is predicted before it is learned; the label of a row comes after `delay` further predictions. The last column
is the rows that the mix predicts and learns in a second of CPU time, with its compilation if that is not cached yet.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import everlearn as el
from everlearn.records import Batch
from everlearn.stream import Stream, read

FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FAMILIES = ("linear", "last")
DRIFTS = ("none", "sudden")  # of generated streams
LEAKS = {"kdd99_10pct": ["attack"]}  # columns that hold the label


def numbers(rows: int) -> None:
    """Print the mean loss of each member and of two mixes, for three losses, on streams of numbers."""
    from number_streams import STREAMS

    losses: dict[str, dict[str, Any]] = {
        "squared": {}, "absolute": {"loss": "absolute"}, "quantile .9": {"loss": "quantile", "loss_parameter": 0.9},
    }  # fmt: skip
    ratios: dict[str, list[float]] = {}
    for name, generate in STREAMS.items():
        x, y = generate(rows)
        batch = Batch(x.astype(np.float32), np.zeros(len(y) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))
        for label, loss in losses.items():
            members: list[dict[str, Any]] = [{"family": one, **loss} for one in ("linear", "forest", "mondrian")]
            members.append({"family": "last"})
            mixes = [{"family": "mix", "members": some} for some in ([*members[:2], members[3]], members)]
            found, rates = [], []
            for spec in [*members, *mixes]:
                model = el.build({**spec, "task": "regression", "dense": x.shape[1]})
                began = time.process_time()
                away = (model.learn(batch, y, np.ones(len(y), np.float32))[:, 0] - y)[100:]
                rates.append(len(y) / (time.process_time() - began))
                each = {"squared": away**2, "absolute": np.abs(away)}.get(label, np.maximum(0.1 * away, -0.9 * away))
                found.append(float(each.mean()) ** (0.5 if label == "squared" else 1.0))
            ratios.setdefault(label, []).append(found[-1] / found[-2])
            cells = " | ".join(f"{one:.4g}" for one in found)
            print(
                f"| {name} | {label} | {cells} | {ratios[label][-1]:.3f} | {rates[-2]:,.0f}, {rates[-1]:,.0f} |",
                flush=True,
            )
    for label, found in ratios.items():
        print(f"{label}: with a Mondrian forest the mix has {np.exp(np.mean(np.log(found))):.4f} of its loss without")


def streams(options: argparse.Namespace) -> Iterator[tuple[str, Stream]]:
    """Yield the names and rows of the streams of files."""
    for path in sorted(FOLDER.glob("*.parquet")):
        if not options.names or path.stem in options.names:
            table = pq.read_table(path).drop_columns(LEAKS.get(path.stem, []))
            yield path.stem, read(table.slice(0, options.rows), label="label")


def thinned(options: argparse.Namespace) -> None:
    """Print accuracy, log loss and rows a second of an automatic model: at price 0, where all learn, and at another.

    The streams are those of files, then those of bench/reactions.py. The last column has the share of rows that each
    member that may rest did not learn.
    """
    from reactions import GENERATORS, generated

    print(f"| | price 0 | rows/s | price {options.price:g} | rows/s | at rest |\n|---|--:|--:|--:|--:|--:|")
    made = (
        (f"{name}, drift {drift}", generated(name, drift, 0, options.rows or 50_000))
        for name in GENERATORS
        for drift in DRIFTS
        if not options.names or name in options.names
    )
    for name, stream in chain(streams(options), made):
        shape = el.schema.shape(stream.schema)
        cells, rested = [], ""
        for price in (0.0, options.price):
            spec = {**el.build({"family": "auto"}, shape).spec, "price": price}
            el.prequential(el.build(spec), stream.first(2000), delay=options.delays[0])  # loads the kernels
            model = el.build(spec)
            began = time.process_time()
            found = el.prequential(model, stream, delay=options.delays[0]).metrics
            rate = found["examples"] / (time.process_time() - began)
            cells.append(f"{found['accuracy']:.4f} / {found['log_loss']:.4f} | {rate:,.0f}")
            shares = model.arrays["rest/rested"] / found["examples"]
            rested = ", ".join(f"{share:.2f}" for share in shares)
        print(f"| {name} | {' | '.join(cells)} | {rested} |", flush=True)


def main() -> None:
    """Print one line for each stream and delay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of streams, without .parquet; default: all")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 100, 1000], help="rows by which labels are late")
    parser.add_argument("--forest", action="store_true", help="with a forest as a third member")
    parser.add_argument("--mondrian", action="store_true", help="with a Mondrian forest as a member")
    parser.add_argument("--auto", action="store_true", help="with the automatic model beside the mix")
    parser.add_argument("--numbers", action="store_true", help="streams of numbers; the squared loss is shown as RMSE")
    parser.add_argument("--price", type=float, help="what members at rest save: the price, beside price 0")
    parser.add_argument("--rows", type=int, help="only the first rows of each stream; of numbers 20,000")
    options = parser.parse_args()
    if options.numbers:
        numbers(options.rows or 20_000)
        return
    if options.price is not None:
        thinned(options)
        return
    added = [name for name in ("forest", "mondrian") if getattr(options, name)]
    families = (FAMILIES[0], *added, *FAMILIES[1:])
    specs = [{"family": name} for name in families]
    specs.append({"family": "mix", "members": list(specs)})
    specs += [{"family": "auto"}] if options.auto else []
    names = " | ".join([*families, "mix", *(["auto"] if options.auto else [])])
    print(f"| stream | delay | {names} | weights at the end | rows/s |")
    print(f"|---|--:|{'--:|' * len(specs)}---|--:|")
    for name, stream in streams(options):
        for delay in options.delays:
            cells, weights = [], ""
            for spec in specs:
                model = el.build(spec, el.schema.shape(stream.schema))
                began = time.process_time()
                found = el.prequential(model, stream, delay=delay).metrics
                rate = found["examples"] / (time.process_time() - began)
                cells.append(" / ".join(f"{found[one]:.3f}" for one in ("accuracy", "log_loss", "mae") if one in found))
                if spec["family"] == "mix":
                    weights = ", ".join(f"{member} {weight:.2f}" for member, weight in model.weights().items())
            print(f"| {name} | {delay:,} | {' | '.join(cells)} | {weights} | {rate:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
