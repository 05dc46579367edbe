"""A dirty CSV with three classes: gaps, several words for a gap, numbers with units, and labels that are none.

    python examples/dirty.py

What cannot be read is set aside with its line and the reason, and reaches no weight. The number of bad rows is known,
so that of the rejected rows can be checked.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import everlearn as el

KINDS = ("small", "medium", "large")


def write(path: Path, rows: int, dirty: bool = True) -> int:
    """Write parcels, of which some cells are missing; return the number of rows that cannot be used."""
    draw, bad = random.Random(4), 0
    lines = ["weight;length;sender;size"]
    for _ in range(rows):
        number = draw.randrange(3)
        weight, length = f"{draw.gauss(2.0 * number, 0.6) + 2.0:.2f}", f"{draw.gauss(20.0 * number, 8.0) + 30.0:.1f}"
        sender, size, fate = draw.choice(["shop", "Shop", "private", ""]), KINDS[number], draw.random()
        if dirty and fate < 0.05:
            length = draw.choice(["", "NA", "n/a", "null"])
        elif dirty and fate < 0.06:
            weight, bad = f"{weight} kg", bad + 1
        elif dirty and fate < 0.07:
            size, bad = draw.choice(["", "unknown"]), bad + 1
        lines.append(";".join([weight, length, sender, size]))
    path.write_text("\n".join(lines) + "\n")
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000)
    arguments = parser.parse_args()
    fields = {"weight": "numeric", "length": "numeric", "sender": "categorical"}
    spec = {"schema": {"label": "size", "task": "multiclass", "classes": list(KINDS), "fields": fields}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parcels.csv"
        bad = write(path, arguments.rows)
        with el.open(spec, home=Path(folder) / "home") as loop:
            report = loop.run(path)
            for row in list(loop.rejected())[:3]:
                print(f"line {row.line}: {row.reason}")
    print(f"{report['rejected']} rows rejected, {bad} are bad; {report['examples']:,} learned")
    print(f"accuracy {report['metrics']['champion']['accuracy']:.3f}")


if __name__ == "__main__":
    main()
