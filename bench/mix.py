"""What a mix is worth beside its members: accuracy and log loss, with labels at once and late.

    python bench/mix.py [NAME ...] [--delays 0 100 1000]

The streams are the Parquet files in $EVERLEARN_DATA, or in the folder shared/data beside the checkout. All settings are
the defaults. Each row is predicted before it is learned; the label of a row comes after `delay` further predictions.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import everlearn as el
from everlearn.stream import read

FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FAMILIES = ("linear", "last", "mix")


def main() -> None:
    """Print one line for each stream and delay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of streams, without .parquet; default: all")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 100, 1000], help="rows by which labels are late")
    options = parser.parse_args()
    print(f"| stream | delay | {' | '.join(FAMILIES)} | weights at the end |\n|---|--:|{'--:|' * len(FAMILIES)}---|")
    for path in sorted(FOLDER.glob("*.parquet")):
        if options.names and path.stem not in options.names:
            continue
        stream = read(path, label="label")
        for delay in options.delays:
            cells, weights = [], ""
            for family in FAMILIES:
                model = el.build({"family": family}, el.schema.shape(stream.schema))
                found = el.prequential(model, stream, delay=delay).metrics
                cells.append(
                    " / ".join(f"{found[name]:.3f}" for name in ("accuracy", "log_loss", "mae") if name in found)
                )
                if family == "mix":
                    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in model.weights().items())
            print(f"| {path.stem} | {delay:,} | {' | '.join(cells)} | {weights} |", flush=True)


if __name__ == "__main__":
    main()
