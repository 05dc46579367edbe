"""Homes for tests: those of release 0.1.0, and a small one with versions, waiting predictions and a challenger."""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.loop.loop import Loop
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, Schema, Spec
from tests.support import ROOT

DATA = ROOT / "tests" / "data"
HOMES: dict[str, Any] = json.loads((DATA / "homes-0.1.0.json").read_text(encoding="utf-8"))["homes"]


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack an archive; the first releases of Python 3.11 know no filter."""
    if hasattr(tarfile, "data_filter"):
        archive.extraction_filter = tarfile.data_filter
    archive.extractall(folder)


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(DATA / f"home-0.1.0-{name}.tar.xz") as archive:
        extract(archive, folder)
    return folder / "home"


def record(spec: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    named = zip(spec["schema"]["fields"], values, strict=True)
    return {name: value for name, value in named if value is not None}


def take(loop: Loop, spec: dict[str, Any], step: list[Any], folder: Path) -> None:
    """Do one step; `folder` holds the files to run."""
    match step:
        case ["learn", id, values, label, source]:
            loop.learn(record(spec, values), label, id=id, source=source)
        case ["predict", id, values]:
            loop.predict(record(spec, values), id=id)
        case ["label", id, label, source]:
            loop.feedback(id, label, source=source)
        case ["run", name, rows]:
            with tempfile.TemporaryDirectory() as scratch:
                lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
                (Path(scratch) / name).write_text("".join(lines[: rows + 1]), encoding="utf-8")
                loop.run(Path(scratch) / name)
        case _:
            raise ValueError(f"unknown step: {step}")


SPEC = Spec(
    schema=Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric", "c": "categorical"}, bits=8),
    model={"family": "linear"},
    mode="live",
    tick=10,
    checkpoint=70,
    gate=GateSpec(minimum=20, alpha=0.4),
    drift=DriftSpec(detector="page_hinkley", grace_period=50, sensitivity=0.05),
    feedback=FeedbackSpec(window=30.0, default=0),
)


def rows(count: int) -> list[tuple[dict[str, Any], int]]:
    draw, found = np.random.default_rng(1), []
    for row in range(count):
        a, c = float(draw.normal()), f"c{draw.integers(4)}"
        found.append(({"a": a, "c": c}, int((a > 0) ^ (row > count // 2))))
    return found


def facts(loop: Loop) -> tuple[Any, ...]:
    arrays, header = loop.fold.state()
    blobs = {
        version.id: {name: array.tobytes() for name, array in loop.home.versions.load(version.id).items()}
        for version in loop.versions()
    }
    held = {name: array.tobytes() for name, array in arrays.items()}
    return held, json.loads(json.dumps(header)), blobs, loop.aliases()


def grown(home: Path) -> tuple[Any, ...]:
    now = iter(range(1, 10_000))
    with Loop(SPEC, home, clock=lambda: float(next(now))) as loop:
        for number, (features, label) in enumerate(rows(300)):
            given = loop.predict(features, id=f"p{number}")
            if number % 3:
                loop.feedback(given.id, label)
        loop.challenge({"family": "linear", "optimizer": "sgd", "rate": 0.01})
        loop.learn({"a": 1.0, "c": "c1"}, 1)
        return facts(loop)
