from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everlearn import config, model, schema
from everlearn.errors import ConfigError, InputError
from everlearn.evaluate import dealt_rows
from everlearn.loop import partitioned
from everlearn.loop.loop import Loop
from everlearn.records import Arrays
from everlearn.scale.partitions.group import Barrier, Group, Saved
from everlearn.scale.partitions.learner import PartitionRows, replayed
from everlearn.spec import LimitsSpec, LogSpec, PartitionSpec, Spec
from everlearn.stream import Stream, read
from tests.support.partitions import same

FIELDS = {"x": "numeric", "who": "categorical"}


def table(n: int) -> pa.Table:
    draw = np.random.default_rng(0)
    x, noise = draw.normal(size=(n, 2)).T
    return pa.table({"x": x, "who": [f"u{row % 5}" for row in range(n)], "y": (x + 0.3 * noise > 0).astype(int)})


def spec(**changes: Any) -> Spec:
    made = config.convert(
        {
            "schema": {"label": "y", "task": "binary", "classes": [0, 1], "fields": FIELDS, "bits": 8},
            "model": {"family": "linear"},
        }
    )
    parts = PartitionSpec(count=2, every=800)
    return msgspec.structs.replace(made, partitions=parts, checkpoint=1600, **changes)


def stream(path: Path, n: int = 4000) -> Stream:
    pq.write_table(table(n), path)
    return read(path, schema=spec().schema)


def finish(settings: Spec, home: Path, rows: Stream) -> dict[str, Any]:
    with partitioned.opened(settings, home, rows) as run:
        return run.run()


def replay(settings: Spec, home: Path, rows: Stream) -> Arrays:
    """Return the arrays that the recorded barriers of a home make in this process."""
    with partitioned.opened(settings, home, rows) as run:
        barriers, dealing = [(one.cursors, one.opening) for one in run.barriers()], run.origin.dealing
    source = dealt_rows.described(rows, dealing, "", home / "none")
    made = model.build({"seed": 0, **settings.model}, schema.shape(settings.schema))
    own = [PartitionRows(dealt_rows.rows_of(source, dealing, p, 0)) for p in range(dealing.count)]
    return replayed(made.spec, made.arrays, own, barriers)


def test_a_run_learns_all_rows_and_a_replay_of_its_barriers_gives_the_same_bytes(tmp_path: Path) -> None:
    rows, home = stream(tmp_path / "rows.parquet"), tmp_path / "home"
    result = finish(spec(), home, rows)
    assert result["rows"] == result["events"] == result["examples"] == 4000
    assert sum(one["rows"] for one in result["partitions"]) == 4000
    assert result["metrics"]["champion"]["accuracy"] > 0.8
    assert result["merges"] == 5  # after 1,000 rows, the opening, and each 800
    assert same(partitioned.saved_arrays(str(home)), replay(spec(), home, rows))
    again = finish(spec(), home, rows)
    assert again["rows"] == 0
    assert again["metrics"] == result["metrics"]


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    rows = stream(tmp_path / "rows.parquet")
    whole = finish(spec(), tmp_path / "whole", rows)
    for last in (1000, 2400, 3200):  # after each barrier of these it ends at once

        def stop(at: int, last: int = last) -> None:
            if at >= last:
                raise Stopped

        with partitioned.opened(spec(), tmp_path / "home", rows) as run, pytest.raises(Stopped):
            run.run(stop)
    result = finish(spec(), tmp_path / "home", rows)
    assert result["metrics"] == whole["metrics"]
    assert same(partitioned.saved_arrays(tmp_path / "home"), partitioned.saved_arrays(tmp_path / "whole"))


@pytest.mark.slow
def test_a_run_survives_the_death_of_its_process_and_of_its_learners(tmp_path: Path) -> None:
    rows = stream(tmp_path / "rows.parquet", 40_000)
    settings = msgspec.structs.replace(spec(), checkpoint=4000)
    whole = finish(settings, tmp_path / "whole", rows)
    code = "import sys; from tests.loop.test_partitioned import kill_at; kill_at(*sys.argv[1:])"
    for at in (800, 9600, 24_000):
        command = [sys.executable, "-c", code, str(tmp_path / "rows.parquet"), str(tmp_path / "home"), str(at)]
        done = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], timeout=300)
        assert done.returncode == -signal.SIGKILL
    killed: list[int] = []

    def kill(group: Group, reached: Barrier | Saved) -> None:
        if isinstance(reached, Saved) and reached.position.at < 39_000:  # another segment has begun
            os.kill(group.pids[len(killed) % 2], signal.SIGKILL)
            killed.append(reached.position.at)

    with partitioned.opened(settings, tmp_path / "home", rows) as run:
        result = run.run(watch=kill)
    assert killed
    assert result["restarts"] == len(killed)
    assert result["metrics"] == whole["metrics"]
    assert same(partitioned.saved_arrays(tmp_path / "home"), partitioned.saved_arrays(tmp_path / "whole"))


def kill_at(path: str, home: str, at: str) -> None:
    """Run until a row, and then kill this process."""
    rows = read(path, schema=spec().schema)
    with partitioned.opened(msgspec.structs.replace(spec(), checkpoint=4000), Path(home), rows) as run:
        run.run(lambda now: os.kill(os.getpid(), signal.SIGKILL) if now >= int(at) else None)


@pytest.mark.slow
def test_a_file_that_grows_is_taken_up_and_one_that_changes_is_refused(tmp_path: Path) -> None:
    path, home = tmp_path / "rows.parquet", tmp_path / "home"
    finish(spec(), home, stream(path, 2500))
    grown = finish(spec(), home, stream(path, 4000))
    assert grown["rows"] == 1500
    assert grown["events"] == 4000
    assert same(partitioned.saved_arrays(home), replay(spec(), home, read(path, schema=spec().schema)))
    pq.write_table(table(5000).slice(7), path)
    with pytest.raises(InputError, match="is not the file that this home has learned"):
        finish(spec(), home, read(path, schema=spec().schema))


@pytest.mark.slow
def test_a_warm_start_is_learned_and_not_scored(tmp_path: Path) -> None:
    settings = spec(warm_start=0.5)
    result = finish(settings, tmp_path / "home", stream(tmp_path / "rows.parquet"))
    assert result["events"] == 2000
    assert result["rows"] == 4000


def test_what_a_run_in_partitions_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode: got 'gated' with partitions.count = 2; expected 'live'"):
        partitioned.check(spec(mode="gated"))
    with pytest.raises(ConfigError, match=r"^limits.clip: got 0.1 .* expected the default, 0.0"):
        partitioned.check(spec(limits=LimitsSpec(clip=0.1)))
    with pytest.raises(ConfigError, match=r"^log.url: got 'kafka://host/topic' with partitions.count = 2; expected"):
        partitioned.check(spec(log=LogSpec(url="kafka://host/topic")))
    with pytest.raises(ConfigError, match="class_weight: got 'balanced'"):
        partitioned.check(spec(class_weight="balanced"))
    with pytest.raises(ConfigError, match=r"partitions.every: got 801 for 2 partitions"):
        partitioned.dealing_of(spec().__class__(schema=spec().schema, partitions=PartitionSpec(count=2, every=801)))
    with pytest.raises(ConfigError, match=r"partitions.count: got 2; expected 1 in a loop that serves"):
        Loop(spec(), tmp_path / "loop")


@pytest.mark.slow
def test_homes_of_both_kinds_are_kept_apart(tmp_path: Path) -> None:
    rows, one = stream(tmp_path / "rows.parquet", 300), msgspec.structs.replace(spec(), partitions=PartitionSpec())
    with Loop(one, tmp_path / "loop") as loop:
        loop.run(rows)
    with (
        pytest.raises(ConfigError, match="is the home of a loop with one learner"),
        partitioned.opened(spec(), tmp_path / "loop", rows),
    ):
        pass
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "partitions.sqlite").touch()
    with pytest.raises(ConfigError, match="is the home of a run in partitions"):
        Loop(one, tmp_path / "home")
