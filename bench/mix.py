"""What a mix is worth beside its members: accuracy and log loss, with labels at once and late.

    python bench/mix.py [NAME ...] [--delays 0 100 1000] [--forest] [--mondrian] [--auto] [--rows N]
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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import everlearn as el
from everlearn.records import Batch
from everlearn.stream import read

FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FAMILIES = ("linear", "last")
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


def main() -> None:
    """Print one line for each stream and delay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of streams, without .parquet; default: all")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 100, 1000], help="rows by which labels are late")
    parser.add_argument("--forest", action="store_true", help="with a forest as a third member")
    parser.add_argument("--mondrian", action="store_true", help="with a Mondrian forest as a member")
    parser.add_argument("--auto", action="store_true", help="with the automatic model beside the mix")
    parser.add_argument("--numbers", action="store_true", help="streams of numbers; the squared loss is shown as RMSE")
    parser.add_argument("--rows", type=int, help="only the first rows of each stream; of numbers 20,000")
    options = parser.parse_args()
    if options.numbers:
        numbers(options.rows or 20_000)
        return
    added = [name for name in ("forest", "mondrian") if getattr(options, name)]
    families = (FAMILIES[0], *added, *FAMILIES[1:])
    specs = [{"family": name} for name in families]
    specs.append({"family": "mix", "members": list(specs)})
    specs += [{"family": "auto"}] if options.auto else []
    names = " | ".join([*families, "mix", *(["auto"] if options.auto else [])])
    print(f"| stream | delay | {names} | weights at the end | rows/s |")
    print(f"|---|--:|{'--:|' * len(specs)}---|--:|")
    for path in sorted(FOLDER.glob("*.parquet")):
        if options.names and path.stem not in options.names:
            continue
        table = pq.read_table(path).drop_columns(LEAKS.get(path.stem, []))
        stream = read(table.slice(0, options.rows), label="label")
        for delay in options.delays:
            cells, weights = [], ""
            for spec in specs:
                model = el.build(spec, el.schema.shape(stream.schema))
                began = time.process_time()
                found = el.prequential(model, stream, delay=delay).metrics
                rate = found["examples"] / (time.process_time() - began)
                cells.append(
                    " / ".join(f"{found[name]:.3f}" for name in ("accuracy", "log_loss", "mae") if name in found)
                )
                if spec["family"] == "mix":
                    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in model.weights().items())
            print(f"| {path.stem} | {delay:,} | {' | '.join(cells)} | {weights} | {rate:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
