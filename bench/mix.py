"""What a mix is worth beside its members: accuracy and log loss, with labels at once and late.

    python bench/mix.py [NAME ...] [--delays 0 100 1000] [--forest]

`--forest` adds a forest of ten trees to the families and to the mix. The streams are the Parquet files in
$EVERLEARN_DATA, or in the folder shared/data beside the checkout. All settings are the defaults. Each row is predicted
before it is learned; the label of a row comes after `delay` further predictions.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import everlearn as el
from everlearn.stream import read

FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FAMILIES = ("linear", "last")


def main() -> None:
    """Print one line for each stream and delay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of streams, without .parquet; default: all")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 100, 1000], help="rows by which labels are late")
    parser.add_argument("--forest", action="store_true", help="with a forest as a third member")
    options = parser.parse_args()
    families = ("linear", "forest", "last") if options.forest else FAMILIES
    specs = [{"family": name} for name in families]
    specs.append({"family": "mix", "members": list(specs)})
    print(f"| stream | delay | {' | '.join(families)} | mix | weights at the end |\n|---|--:|{'--:|' * len(specs)}---|")
    for path in sorted(FOLDER.glob("*.parquet")):
        if options.names and path.stem not in options.names:
            continue
        stream = read(path, label="label")
        for delay in options.delays:
            cells, weights = [], ""
            for spec in specs:
                model = el.build(spec, el.schema.shape(stream.schema))
                found = el.prequential(model, stream, delay=delay).metrics
                cells.append(
                    " / ".join(f"{found[name]:.3f}" for name in ("accuracy", "log_loss", "mae") if name in found)
                )
                if spec["family"] == "mix":
                    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in model.weights().items())
            print(f"| {path.stem} | {delay:,} | {' | '.join(cells)} | {weights} |", flush=True)


if __name__ == "__main__":
    main()
