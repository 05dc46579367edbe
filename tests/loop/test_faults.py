"""Disks that are full, read-only or damaged, and clocks that go backwards: a clear error or a recovery, no loss."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from everlearn.errors import LogError
from everlearn.events import SqliteLog
from everlearn.loop.loop import Loop
from everlearn.records import Event, Example, Label, Payload, Prediction
from everlearn.spec import FeedbackSpec, Spec
from tests.support.loops import FIELDS, spec, table, wave
from tests.support.payloads import content

PAGE = 4096


def run(code: str, *arguments: object, before: tuple[str, ...] = ()) -> str:
    """What a child process says; it must end well."""
    command = [*before, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- a full disk ---------------------------------------------------------------------------------------------------


def can_mount() -> bool:
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=1m",
        "none",
        "/mnt",
    ]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


FULL = """
    import pathlib, subprocess, sys
    from everlearn.errors import LogError
    from everlearn.events import SqliteLog, row
    from everlearn.records import Decision, Example
    disk = pathlib.Path("/mnt")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=True)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    acknowledged, said = {}, set()

    def send(log, number):
        group = [Example(f"{number}/{i}", {"pad": "x" * 400}, 1) for i in range(20)]
        group.append(Decision("drift", number, "why", "drift"))
        wrote = log.append(group) if number % 2 else log.try_write([row(payload, 1.0) for payload in group])
        assert wrote is not None  # nobody else is writing
        acknowledged[number] = wrote

    with SqliteLog(disk / "log.db") as log, SqliteLog(disk / "log.db") as other:
        number = 0
        for space in (ballast, None):
            try:
                while True:
                    send(log, number)
                    number += 1
            except LogError as error:
                said.add(str(error))
            for one in (log, other):  # whoever is asked, as often as one likes
                for _ in range(3):
                    try:
                        send(one, number)
                    except LogError as error:
                        said.add(str(error))
                    else:
                        number += 1
            held = [event.position for event in log.read(0, 10**6)]
            assert held == list(range(1, len(held) + 1))
            assert len(held) == 21 * len(acknowledged)
            assert log.verify().ok
            if space:
                space.unlink()
                before = number
        assert number > before + 5, (number, before)  # it went on in the space that was freed
    with SqliteLog(disk / "log.db") as log:
        assert log.verify().ok
        names = [event.payload.id for event in log.read(0, 10**6, ["example"])]
        assert names == [f"{number}/{i}" for number in acknowledged for i in range(20)]
    print(*said, sep="\\n")
"""


@pytest.mark.skipif(not can_mount(), reason="this user may not mount a small disk of their own")
def test_a_disk_that_is_really_full_loses_nothing_and_the_log_goes_on_when_there_is_space() -> None:
    said = run(FULL, before=("unshare", "--user", "--map-root-user", "--mount"))
    assert said
    for line in said.splitlines():
        assert "holds none of it" in line
        assert "the disk is full: free some space" in line or "the disk reported an error: check its space" in line


LOOP = """
    import resource, sys, pathlib
    import everlearn
    from everlearn.errors import EverlearnError
    from tests.support.loops import spec, wave
    home = pathlib.Path(sys.argv[1])
    loop = everlearn.open(spec(checkpoint=50), home=home)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    answered, told, errors, row = [], [], [], 0
    while row < 400:
        if row == 150:
            resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, hard))  # no file may grow beyond this
        if len(errors) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            errors.append("space again")
        try:
            answer = loop.predict(wave(row), id=str(row))
            answered.append(answer.id)
            loop.feedback(answer.id, label=row % 2)
            told.append(answer.id)
            row += 1
        except (EverlearnError, OSError) as error:
            errors.append(f"{type(error).__name__}: {error}")
            try:
                loop.close()
            except (EverlearnError, OSError):
                pass
            try:
                loop = everlearn.open(spec(checkpoint=50), home=home)
            except (EverlearnError, OSError) as error:
                errors.append(f"{type(error).__name__}: {error}")
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                loop = everlearn.open(spec(checkpoint=50), home=home)
        if len(errors) > 20:
            raise SystemExit(errors)
    held = [event.payload for event in loop.log.read(0, 10**6)]
    loop.close()
    labels = [one.id for one in held if type(one).__name__ == "Label"]
    assert [one.id for one in held if type(one).__name__ == "Prediction"] == [str(row) for row in range(400)]
    assert set(told) <= set(labels) and len(labels) == len(set(labels))
    print(*errors, sep="\\n")
"""


def test_a_loop_whose_disk_was_full_has_learned_what_its_log_says(tmp_path: Path) -> None:
    said = run(LOOP, tmp_path / "home")
    assert "LogError" in said or "BlobError" in said
    whole = spec(checkpoint=50)
    with Loop(whole, tmp_path / "home") as loop:
        arrays = state(loop)
        events = [event for event in content(loop.log) if isinstance(event.payload, Prediction | Label)]
    with Loop(whole, tmp_path / "undisturbed") as loop:
        for event in events:
            loop.log.append([event.payload], time=event.time)
            loop.catch_up()
        mine = state(loop)
    for name, array in arrays.items():  # decisions and checkpoints lie at other positions
        if name not in ("waiting/position", "learner/memory/position", "learner/memory/counters"):
            assert mine[name] == array, name


def state(loop: Loop) -> dict[str, bytes]:
    arrays, _ = loop.fold.state()
    return {name: array.tobytes() for name, array in arrays.items()}


# ---- a disk that may not be written --------------------------------------------------------------------------------


READ_ONLY = """
    import os, sys
    import everlearn
    from everlearn.errors import EverlearnError
    from tests.support.loops import spec, wave
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)  # modes mean nothing to root
    try:
        with everlearn.open(spec(), home=sys.argv[1]) as loop:
            loop.predict(wave(1))
    except EverlearnError as error:
        print(error)
"""


def test_a_home_that_may_not_be_written_is_refused_with_the_reason(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Loop(spec(), home) as loop:
        loop.predict(wave(0))
        before = content(loop.log)
    folders = [home, home / "blobs"]
    for folder in home.parents:
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    for path in [*home.rglob("*"), home]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    said = run(READ_ONLY, home)
    for folder in folders:
        folder.chmod(0o755)
    for path in home.iterdir():
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert str(home) in said
    with Loop(spec(), home) as loop:
        assert [event for event in content(loop.log) if event.position <= len(before)] == before


# ---- a disk that forgets -------------------------------------------------------------------------------------------


def write(path: Path, groups: int) -> list[Event]:
    with SqliteLog(path) as log:
        for number in range(groups):
            log.append([Example(f"{number:06d}/{i}", {"pad": "x" * 300}, 1) for i in range(5)], time=1.0)
        return content(log)


@pytest.mark.parametrize("harm", ["zeros", "noise", "missing"])
def test_the_last_page_of_the_file_damaged_is_never_silently_less(tmp_path: Path, harm: str) -> None:
    """Whatever is on the page: what can be read is right, and reading all of it is whole or is an error."""
    path = tmp_path / "log.db"
    before = write(path, 300)
    data = path.read_bytes()
    chance = random.Random(harm)
    told: list[str] = []
    for page in [len(data) // PAGE - 1, *chance.sample(range(1, len(data) // PAGE - 1), 12)]:
        damage = {"zeros": bytes(PAGE), "noise": chance.randbytes(PAGE), "missing": b""}[harm]
        path.write_bytes(data[: page * PAGE] + damage + (b"" if harm == "missing" else data[(page + 1) * PAGE :]))
        for beside in tmp_path.glob("log.db-*"):
            beside.unlink()
        try:
            with SqliteLog(path) as log:
                assert content(log) == before
                log.find(f"example:{chance.randrange(300):06d}/3")
        except LogError as error:
            told.append(str(error))
    assert len(told) >= 5
    assert all("damaged" in said and "put back a copy" in said for said in told)


CRASHING = """
    import sys
    from everlearn.events import SqliteLog
    from everlearn.records import Example
    with SqliteLog(sys.argv[1]) as log:
        for number in range(10**6):
            print(number, *log.append([Example(f"{number}/{i}", {"pad": "x" * 300}, 1) for i in range(5)]), flush=True)
"""


def crashed(path: Path) -> int:
    """Groups acknowledged by a writer that was killed, with its write-ahead log beside the file."""
    command = [sys.executable, "-c", textwrap.dedent(CRASHING), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        return len((first + process.stdout.read()).splitlines()) - 1


@pytest.mark.parametrize("torn", ["cut", "zeros", "noise"])
def test_a_write_that_was_torn_costs_the_group_that_nobody_was_told_of(tmp_path: Path, torn: str) -> None:
    """A group is being written when the power goes: its pages are there in part; all before it is there."""
    path, wal = tmp_path / "log.db", tmp_path / "log.db-wal"
    acknowledged = crashed(path)
    whole = wal.read_bytes()
    with SqliteLog(path) as log:  # goes on from the write-ahead log, and is killed in the next group
        held = len(content(log))
        log.append([Example(f"next/{i}", {"pad": "x" * 3000}, 1) for i in range(20)])
        after = wal.read_bytes()
        database = path.read_bytes()
    grown = next(at for at in range(0, len(after), 24) if after[at : at + 24] != whole[at : at + 24])
    chance = random.Random(torn)
    for _ in range(10):
        at = chance.randrange(grown, max(grown + 1, len(after) - 30))
        rest = {"cut": b"", "zeros": bytes(len(after) - at), "noise": chance.randbytes(len(after) - at)}[torn]
        path.write_bytes(database)
        wal.write_bytes(after[:at] + rest)
        (tmp_path / "log.db-shm").unlink(missing_ok=True)
        with SqliteLog(path) as log:
            events = content(log)
            assert len(events) in (held, held + 20)
            assert len(events) >= 5 * acknowledged
            assert [event.position for event in events] == list(range(1, len(events) + 1))
            assert log.append([Example("goes on", {}, 1)]) == [len(events) + 1]


def test_a_damaged_page_of_the_write_ahead_log_costs_what_came_after_it_and_tears_nothing(tmp_path: Path) -> None:
    """A disk that changes what it was given to keep: SQLite goes back to the last whole group before the damage."""
    path, wal = tmp_path / "log.db", tmp_path / "log.db-wal"
    crashed(path)
    saved = [(one, one.read_bytes()) for one in (path, wal)]
    chance = random.Random(3)
    for _ in range(8):
        for one, data in saved:
            one.write_bytes(data)
        (tmp_path / "log.db-shm").unlink(missing_ok=True)
        damaged = bytearray(saved[1][1])
        damaged[chance.randrange(len(damaged) // 2, len(damaged))] ^= 0x40
        wal.write_bytes(damaged)
        with SqliteLog(path) as log:
            events = content(log)
            assert [event.position for event in events] == list(range(1, len(events) + 1))
            assert len(events) % 5 == 0
            assert log.verify().ok
            assert log.append([Example("goes on", {}, 1)]) == [len(events) + 1]


# ---- clocks --------------------------------------------------------------------------------------------------------


def told_late(back: float) -> tuple[Spec, list[tuple[float, Payload]]]:
    """Predictions a second apart, each judged 5 seconds later; from the 60th on the clock shows `back` seconds less."""
    chosen = spec(feedback=FeedbackSpec(window=20.0, default=0), mode="live")
    columns = table(150)
    events: list[tuple[float, Payload]] = []
    for row in range(150):
        moment = 1e6 + row - (back if row >= 60 else 0.0)
        features = {name: columns[name][row] for name in FIELDS}
        events.append((moment, Prediction(str(row), features, 0, (0.5, 0.5), "v")))
        if row >= 5:
            events.append((moment, Label(str(row - 5), int(columns["label"][row - 5]))))
    return chosen, events


def test_a_clock_that_goes_backwards_takes_no_default_label_for_an_answer_in_time(tmp_path: Path) -> None:
    """Time stands still for the loop until the clock has caught up: whoever answers in time is heard."""
    states = []
    for back in (0.0, 1000.0):
        chosen, events = told_late(back)
        with Loop(chosen, tmp_path / f"home{back}") as loop:
            for moment, payload in events:
                loop.log.append([payload], time=moment)
                loop.catch_up()
            assert [event.time for event in loop.log.read(0, 1000, ["prediction"])][60] == 1e6 + 60 - back
            states.append({name: array for name, array in state(loop).items() if not name.startswith("waiting/time")})
    assert states[0] == states[1]


def test_a_clock_that_goes_backwards_leaves_order_and_restart_as_they_are(tmp_path: Path) -> None:
    chosen, events = told_late(1000.0)
    with Loop(chosen, tmp_path / "whole") as loop:
        for moment, payload in events:
            loop.log.append([payload], time=moment)
        while loop.catch_up():
            pass
        whole = state(loop)
    for start in range(0, len(events), 40):
        with Loop(chosen, tmp_path / "parts") as loop:
            for moment, payload in events[start : start + 40]:
                loop.log.append([payload], time=moment)
            while loop.catch_up(7):
                pass
            parts = state(loop)
    differ = {name for name in whole if whole[name] != parts[name]}
    assert differ <= {
        "waiting/position",
        "learner/counted/positions",
        "learner/memory/position",
        "learner/memory/counters",
    }  # checkpoints lie between
