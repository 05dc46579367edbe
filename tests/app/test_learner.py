"""The learner process: what is acknowledged is served, once, whoever is killed; and it says how it is."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn import model
from everlearn.app import learner
from everlearn.app.learner import PIECE, PIECES, SHARE, EarlyUseFile, Learner, Pace, Tail, warm
from everlearn.app.process import PRIORITY, READY, Setup
from everlearn.errors import ConfigError, LogError
from everlearn.events import Log, connect
from everlearn.feedback.early_room import PublishedUse
from everlearn.loop import commands
from everlearn.loop.fold import Fold
from everlearn.loop.loop import Loop
from everlearn.loop.stretch import Commit
from everlearn.predict import Instance, Serving, answer
from everlearn.records import Born, Decision, Example, Label, Prediction
from everlearn.schema import Encoder
from everlearn.serve.snapshot import Publisher, Reader
from everlearn.spec import FeedbackSpec, GateSpec, LimitsSpec, ServeSpec, Spec
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions
from tests.support import ROOT, bandits, pairs
from tests.support.loops import FIELDS, spec, table

PATIENCE = 60.0


def setup_of(folder: Path, settings: Spec) -> Setup:
    serving = folder / "serving"
    serving.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Setup(spec=settings, home=str(folder / "home"), serving=str(serving))


def started(setup: Setup, stderr: Any = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "everlearn.app.learner"],
        cwd=ROOT,
        env={**os.environ, **setup.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextmanager
def learning(setup: Setup) -> Iterator[subprocess.Popen[bytes]]:
    """A learner process that is ready; it is killed at the end if it still runs."""
    process = started(setup)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == READY
        yield process
    finally:
        process.kill()
        process.wait(60)
        close(process)


def reader_of(setup: Setup) -> Reader:
    return Reader(Path(setup.serving), model.build, patience=PATIENCE)


def until(true: Callable[[], Any]) -> None:
    """Wait for what must come true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


def status_of(setup: Setup) -> dict[str, Any]:
    return json.loads(setup.status.read_bytes())


class Client:
    """The part of a worker that these tests need: it answers with the newest snapshot, and appends to the log."""

    def __init__(self, setup: Setup) -> None:
        self.spec = setup.spec
        self.log = connect(f"{setup.home}/log.sqlite", tidy=False)
        self.reader = reader_of(setup)
        self.encoder = Encoder(setup.spec.schema)
        self.columns = table(4000)

    def record(self, row: int) -> dict[str, Any]:
        return {name: self.columns[name][row] for name in FIELDS}

    def predict(self, row: int) -> Prediction:
        held = self.reader.current()
        serving = Serving(held.champion, None, 0.0, held.position, lambda batch: batch)
        (given,) = answer(serving, self.encoder, [Instance(f"p{row}", self.record(row))])
        self.log.append([given])
        return given

    def label(self, row: int) -> int:
        (position,) = self.log.append([Label(f"p{row}", int(self.columns["label"][row]))])
        return position

    def examples(self, start: int, stop: int) -> list[int]:
        rows = range(start, stop)
        return self.log.append([Example(f"e{row}", self.record(row), int(self.columns["label"][row])) for row in rows])


# ---- pace: decided from what things took -------------------------------------------------------------------------


def test_pieces_grow_while_they_are_quick_and_full_and_shrink_when_they_are_slow():
    pace = Pace()
    for _ in range(20):
        pace.folded(pace.limit, PIECE / 10)
    assert pace.limit == PIECES[1]
    pace.folded(10, PIECE / 10)
    assert pace.limit == PIECES[1]
    for _ in range(20):
        pace.folded(pace.limit, PIECE * 2)
    assert pace.limit == PIECES[0]


@pytest.mark.parametrize("cost", [1e-6, 1e-4])
def test_a_piece_takes_its_time_whatever_an_event_costs(cost):
    pace = Pace()
    for _ in range(50):
        pace.folded(pace.limit, pace.limit * cost)
    assert pace.limit * cost <= 2 * PIECE or pace.limit == PIECES[0]
    assert pace.limit * cost >= PIECE / 4 or pace.limit == PIECES[1]


def test_publishing_takes_its_share_of_the_time_at_most():
    pace, now, spent = Pace(), 0.0, 0.0
    while now < 10.0:
        if now >= pace.due:
            pace.published(now, 0.003)
            spent += 0.003
        now += 0.0005
    assert spent / 10.0 == pytest.approx(SHARE, rel=0.1)


# ---- in this process ---------------------------------------------------------------------------------------------


def caught_up(tail: Tail) -> None:
    tail.finish(PATIENCE)


def test_kernels_are_loaded_for_the_model_that_the_home_has(tmp_path: Path) -> None:
    """Settings without a model stand for another one in a home that began with it."""
    unnamed = spec(model={})
    assert learner._spec_of_home(unnamed, tmp_path / "home") == unnamed
    with Loop(spec(model={"family": "last"}), tmp_path / "home") as loop:
        loop.ready()
    assert learner._spec_of_home(unnamed, tmp_path / "home").model == {"family": "last"}
    assert learner._spec_of_home(spec(model={"family": "forest"}), tmp_path / "home").model == {"family": "forest"}


def test_a_new_loop_serves_before_anything_was_learned(tmp_path):
    setup = setup_of(tmp_path, spec())
    publisher, reader = Publisher(Path(setup.serving)), reader_of(setup)
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        Tail(loop, publisher)
        held = reader.current()
        assert held.champion.version == loop.versions()[0].id
        assert held.canary is None
        assert reader.staleness(time.monotonic()) < PATIENCE


def test_live_what_serves_is_what_was_learned_to_the_last_bit(tmp_path):
    setup = setup_of(tmp_path, spec(mode="live"))
    publisher = Publisher(Path(setup.serving))
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, publisher), Client(setup)
        for row in range(100):
            client.predict(row)
            client.label(row)
            tail.step()
        caught_up(tail)
        held = client.reader.current()
        learned = loop.fold.roster.champion.model.arrays
        assert {name: array.tobytes() for name, array in held.champion.model.arrays.items()} == {
            name: array.tobytes() for name, array in learned.items()
        }
        assert held.position == loop.position == loop.log.end()


def test_gated_nothing_is_published_until_the_champion_moves(tmp_path):
    setup = setup_of(tmp_path, spec(gate=GateSpec(minimum=200, promote="snapshot")))
    publisher = Publisher(Path(setup.serving))
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, publisher), Client(setup)
        end = client.examples(0, 100)[-1]
        caught_up(tail)
        assert client.reader.current().sequence == 1
        assert client.reader.position() == end  # folded all the same
        client.examples(100, 3000)
        caught_up(tail)
        assert any(one.action == "promote" for one in loop.decisions())
        assert client.reader.current().champion.version == loop.home.versions.alias("champion")


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_canary_is_published_where_one_is_wanted(tmp_path, mode):
    settings = spec(mode=mode, serve=ServeSpec(canary=0.2), gate=GateSpec(minimum=100, promote="snapshot"))
    setup = setup_of(tmp_path, settings)
    publisher = Publisher(Path(setup.serving))
    with Loop(settings, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, publisher), Client(setup)
        if mode == "live":
            loop.challenge({"family": "linear"})
        client.examples(0, 60)
        caught_up(tail)
        assert loop.fold.canary is not None
        held = client.reader.current().canary
        assert held is not None
        assert {name: array.tobytes() for name, array in held.model.arrays.items()} == {
            name: array.tobytes() for name, array in loop.fold.canary.model.arrays.items()
        }


def test_a_restart_learns_again_only_what_is_quickly_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "WORK", 0.0)
    setup = setup_of(tmp_path, spec())
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, Publisher(Path(setup.serving))), Client(setup)
        begin = loop.position
        client.examples(0, 200)
        tail.step()  # its first piece took longer than nothing
        saved = loop.position
        shutil.copytree(setup.home, tmp_path / "killed")
        caught_up(tail)
        with Loop(setup.spec, tmp_path / "killed", behind=True) as again:
            assert begin < again.position <= saved
            while again.catch_up():
                pass
            arrays = again.ready().model.arrays
            assert {name: one.tobytes() for name, one in arrays.items()} == {
                name: one.tobytes() for name, one in loop.ready().model.arrays.items()
            }


def test_a_checkpoint_of_the_loop_begins_the_seconds_of_work_again(tmp_path, monkeypatch):
    setup = setup_of(tmp_path, spec(checkpoint=50))
    monkeypatch.setattr(learner, "WORK", 3.0)
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, Publisher(Path(setup.serving))), Client(setup)
        for start in range(0, 800, 100):
            client.examples(start, start + 100)
            caught_up(tail)
            before = loop.home.saves
            tail._save(2.0)  # as if learning had taken this long
            assert loop.home.saves == before  # 100 labels made checkpoints in between
        tail._save(2.0)
        assert loop.home.saves == before + 1


def test_all_threads_of_a_learner_yield_to_requests(tmp_path):
    setup = setup_of(tmp_path, spec())
    with learning(setup) as process:
        tasks = Path(f"/proc/{process.pid}/task")
        base = os.getpriority(os.PRIO_PROCESS, 0)

        def values() -> list[int]:
            return [int((task / "stat").read_text().rpartition(")")[2].split()[16]) for task in tasks.iterdir()]

        until(lambda: set(values()) == {min(19, base + PRIORITY)})
        assert len(values()) >= 2  # one moves the log


def test_the_rival_of_duels_is_published_with_the_uids(tmp_path):
    setup = setup_of(tmp_path, pairs.settings(gate=GateSpec(minimum=6)))
    with Loop(setup.spec, Path(setup.home)) as loop:
        for number in range(9):
            loop.judge(loop.record(pairs.drawn(number), {}, id=str(number)).id, number % 2, source="people/anna")
        roster = loop.fold.roster
        seats = roster.champion, roster.good
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        Tail(loop, Publisher(Path(setup.serving)))
        held = reader_of(setup).current()
        found = held.champion, held.rival
        assert [(one.uid, one.version) for one in found] == [(one.uid, one.version) for one in seats]
        for one, seat in zip(found, seats, strict=True):
            assert one.model.arrays["line"].tobytes() == seat.model.arrays["line"].tobytes()
        assert found[0].model.arrays["seen"] == found[1].model.arrays["seen"] + 3


def test_the_bounds_of_features_travel_with_the_snapshot(tmp_path):
    settings = spec(limits=LimitsSpec(clip=0.05))
    setup = setup_of(tmp_path, settings)
    publisher = Publisher(Path(setup.serving))
    with Loop(settings, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, publisher), Client(setup)
        client.examples(0, 2000)
        caught_up(tail)
        held = client.reader.current().arrays
        assert held.keys() == loop.fold.bounds.keys() == {"low", "high"}
        assert np.isfinite(held["low"]).all()
        assert held["high"].tolist() == loop.fold.bounds["high"].tolist()


def test_it_is_fresh_only_as_far_as_it_has_folded(tmp_path):
    setup = setup_of(tmp_path, spec(mode="live"))
    publisher = Publisher(Path(setup.serving))
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, publisher), Client(setup)
        client.examples(0, 1)
        caught_up(tail)
        long_ago = time.time() - 1000.0
        rows = [Example(f"old{i}", client.record(i), 0) for i in range(PIECES[0] + 1)]
        client.log.append(rows, time=long_ago)
        tail.step()  # a full piece: one event, a thousand seconds old, is not folded yet
        known = client.reader.staleness(time.monotonic())
        assert known < 1000.0  # it had been fresher before, and what serves was folded to there
        before = time.monotonic()
        caught_up(tail)
        assert client.reader.staleness(before) == 0.0


def test_a_tail_that_begins_behind_says_by_how_much(tmp_path):
    setup = setup_of(tmp_path, spec(mode="live"))
    with Loop(setup.spec, Path(setup.home)) as loop:
        loop.ready()
    client = Client(setup)
    client.examples(0, 1)
    time.sleep(0.3)
    publisher = Publisher(Path(setup.serving))
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        Tail(loop, publisher)
        assert 0.3 <= client.reader.staleness(time.monotonic()) < PATIENCE


def test_what_serves_never_goes_back_to_an_older_checkpoint(tmp_path):
    setup = setup_of(tmp_path, spec(mode="live"))
    publisher, home = Publisher(Path(setup.serving)), Path(setup.home)
    with Loop(setup.spec, home) as loop:
        loop.ready()
    saved = tmp_path / "saved"
    shutil.copytree(home, saved)
    with Loop(setup.spec, home, behind=True) as loop:
        tail, client = Tail(loop, publisher), Client(setup)
        client.examples(0, 50)
        caught_up(tail)
        newest = client.reader.current()
        loop.home.close()  # as if killed: nothing is saved
    with Loop(setup.spec, home, behind=True) as loop:
        tail = Tail(loop, publisher)
        assert client.reader.current() is newest
        tail.step()
        assert client.reader.current() is newest
        assert loop.position < newest.position
        caught_up(tail)
        client.examples(50, 60)
        caught_up(tail)
        assert client.reader.current().position > newest.position
    with Loop(setup.spec, saved, behind=True) as loop:  # the log of another life ends before: it does not count
        Tail(loop, publisher)
        assert client.reader.current().position == loop.position < newest.position


def test_the_published_use_of_early_feedback_never_goes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "EARLY", 0.0)
    setup = setup_of(tmp_path, spec(feedback=FeedbackSpec(early=3600.0)))
    seen = PublishedUse(Path(setup.serving))
    with Loop(setup.spec, Path(setup.home)) as loop:
        loop.ready()
        loop.save()
        kept = loop.position
        loop.log.append([Label(f"none-{number}", 1) for number in range(10)])
        loop.catch_up()
        EarlyUseFile(setup).write(loop)
        most = seen()
        assert (most.position, most.bytes > 0) == (loop.position, True)
        loop._journal._restore()  # as a learner does that was killed
        assert loop.position <= kept
        file = EarlyUseFile(setup)  # of its successor
        for _ in range(11):
            file.write(loop)
            assert seen() == most
            loop.catch_up(1)
        loop.log.append([Label("one more", 1)])
        loop.catch_up()
        file.write(loop)
        assert (seen().position, seen().bytes > most.bytes) == (loop.position, True)
    other = msgspec.structs.replace(setup, home=str(tmp_path / "other"))
    with Loop(other.spec, Path(other.home)) as loop:  # its log ends before that position
        loop.ready()
        EarlyUseFile(other).write(loop)
        assert seen().bytes == 0


def test_no_room_for_a_snapshot_is_trouble_that_is_said_and_passes(tmp_path, monkeypatch):
    setup = setup_of(tmp_path, spec(mode="live"))
    publisher = Publisher(Path(setup.serving))
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        tail, client = Tail(loop, publisher), Client(setup)
        before = client.reader.current()
        client.examples(0, 50)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        room = resource.setrlimit
        real = publisher.publish

        def publish(*arguments: Any) -> int:  # only the snapshot finds no room, not the log
            room(resource.RLIMIT_FSIZE, (100, limit[1]))
            try:
                return real(*arguments)
            finally:
                room(resource.RLIMIT_FSIZE, limit)

        monkeypatch.setattr(publisher, "publish", publish)
        caught_up(tail)
        assert "cannot be written" in tail.trouble
        assert client.reader.current() is before
        monkeypatch.undo()
        tail._retry = 0.0  # the pause is over
        caught_up(tail)
        assert tail.trouble == ""
        assert client.reader.current().position == loop.log.end()
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def test_a_loop_that_cannot_be_opened_is_an_error_at_once(tmp_path):
    setup = setup_of(tmp_path, spec())
    with Loop(setup.spec, Path(setup.home)), pytest.raises(LogError, match="open in another process"):
        Learner(setup, threading.Event(), lambda: None).run()
    with Loop(setup.spec, Path(setup.home)) as loop:
        loop.ready()
    other = msgspec.structs.replace(setup, spec=spec(seed=7))
    with pytest.raises(ConfigError, match="seed was 0, is now 7"):
        Learner(other, threading.Event(), lambda: None).run()


# ---- as a process ------------------------------------------------------------------------------------------------


def test_feedback_is_learned_served_and_shown(tmp_path):
    setup = setup_of(tmp_path, spec(mode="live"))
    with learning(setup) as process:
        client = Client(setup)
        first = client.predict(0)
        assert first.proba == (0.5, 0.5)
        position = client.label(0)
        until(lambda: client.reader.current().position >= position)
        assert client.predict(1).proba != (0.5, 0.5)
        until(lambda: status_of(setup)["waiting"] == 1)
        now = status_of(setup)
        assert now["learner"]["pid"] == process.pid
        assert now["learner"]["published"] == client.reader.current().sequence
        assert now["learner"]["memory"] > 1 << 20
        assert now["learner"]["trouble"] == ""
        assert now["examples"] == 1
        assert not now["staleness"]["broken"]
        assert os.getpriority(os.PRIO_PROCESS, process.pid) > os.getpriority(os.PRIO_PROCESS, 0)


def test_the_status_is_renewed_several_times_a_second(tmp_path):
    setup = setup_of(tmp_path, spec())
    with learning(setup):
        times = set()
        until(lambda: times.add(status_of(setup)["time"]) or len(times) > 5)
        assert math.isclose(max(times), time.time(), abs_tol=PATIENCE)


def test_it_catches_up_and_saves_when_it_is_asked_to_end(tmp_path):
    setup = setup_of(tmp_path, spec(mode="live"))
    with learning(setup) as process:
        client = Client(setup)
        client.examples(0, 2000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        last = client.reader.current()
    with Loop(setup.spec, Path(setup.home), behind=True) as loop:
        assert loop.fold.monitor.scored == 2000  # from the checkpoint alone
        arrays = loop.fold.roster.champion.model.arrays
        assert all((arrays[name] == last.champion.model.arrays[name]).all() for name in arrays)


def test_it_ends_at_once_while_it_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "empty"))
    setup = setup_of(tmp_path, spec(model={"family": "auto"}))
    process = started(setup)
    try:
        until(lambda: any(Path(setup.serving).glob(".warming*")))
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - asked < 10.0
        assert not list(Path(setup.serving).glob(".warming*"))
        assert not Path(setup.home, "log.sqlite").exists()  # it had not come to open the loop
    finally:
        process.kill()
        process.wait(60)
        close(process)


def test_it_ends_when_the_supervisor_is_gone(tmp_path):
    setup = setup_of(tmp_path, spec())
    with learning(setup) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot limit another process")
def test_a_full_disk_is_said_and_passes(tmp_path):
    setup = setup_of(tmp_path, spec(mode="live", checkpoint=300))
    process = started(setup, stderr=subprocess.PIPE)
    said: list[bytes] = []
    listening = threading.Thread(target=lambda: said.extend(process.stderr or ()))
    listening.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == READY
        client = Client(setup)
        client.examples(0, 100)
        until(lambda: client.reader.current().position >= 100)
        unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))  # not a byte more in any file
        end = client.examples(100, 700)[-1]
        until(lambda: any(b"cannot be written" in line or b"did not take" in line for line in said))
        assert process.poll() is None
        assert client.reader.current().position < end
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        until(lambda: client.reader.current().position >= end)
        until(lambda: status_of(setup)["examples"] == 700)
        until(lambda: status_of(setup)["learner"]["trouble"] == "")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(60)
        listening.join()
        close(process)
    with Loop(setup.spec, Path(setup.home)) as loop:
        assert loop.report()["examples"] == 700


def test_what_a_killed_one_left_behind_is_swept_up(tmp_path):
    setup = setup_of(tmp_path, spec())
    left = Path(setup.serving) / ".warming-abc"
    (left / "blobs").mkdir(parents=True)
    warm(setup.spec, setup.serving)
    assert list(Path(setup.serving).iterdir()) == []


def logged() -> Spec:
    return bandits.spec(
        schema=bandits.schema(action="action", propensity="p", rewards=(1.0, 5.0)), model={"family": "bandit"}
    )


@pytest.mark.parametrize("kind", [spec, pairs.read, bandits.spec, logged])
def test_kernels_are_loaded_by_rows_of_the_loop(tmp_path, caplog, kind):
    setup = setup_of(tmp_path, kind())
    with caplog.at_level("INFO"):
        warm(setup.spec, setup.serving)
    assert "could not be loaded" not in caplog.text


def test_the_kernels_of_the_gate_are_loaded_before_there_is_anything_to_compare(tmp_path):
    setup = setup_of(tmp_path, spec())
    code = (
        "import sys; from everlearn.app.learner import warm; "
        "from everlearn.gate import deterioration, kernels; from tests.support.loops import spec; "
        "warm(spec(), sys.argv[1]); "
        "print(len(deterioration.watch.signatures), len(kernels.compare.signatures))"
    )
    done = subprocess.run([sys.executable, "-c", code, setup.serving], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_what_it_cannot_open_it_says_and_ends(tmp_path):
    setup = setup_of(tmp_path, spec())
    with Loop(setup.spec, Path(setup.home)):
        process = started(setup, stderr=subprocess.PIPE)
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        said = process.stderr.read().decode()
        close(process)
    assert "is open in another process" in said
    assert "Traceback" not in said


def test_an_order_in_the_log_is_carried_out(tmp_path):
    setup = setup_of(tmp_path, spec())
    with learning(setup):
        client = Client(setup)
        client.examples(0, 3000)
        until(lambda: client.reader.position() >= client.log.end())
        until(lambda: status_of(setup)["examples"] == 3000)
        versions = Versions(Blobs(Path(setup.home) / "blobs"))
        for event in client.log.read(0, 10_000, kinds=("version", "decision")):
            versions.note(event.payload)
        before = client.reader.current().champion.version
        order = commands.rollback(versions, "a test")
        (position,) = client.log.append([order])
        until(lambda: client.reader.position() >= position)
        until(lambda: client.reader.current().champion.version != before)


def work(setup: Setup, stop: threading.Event, acknowledged: list[str]) -> None:
    """A client that predicts, and labels late and out of order, as fast as the log takes it."""
    client, draw = Client(setup), np.random.default_rng(3)
    waiting: list[int] = []
    for row in range(4000):
        if stop.is_set():
            return
        client.predict(row)
        acknowledged.append(f"prediction:p{row}")
        waiting.append(row)
        if len(waiting) > 20:
            chosen = waiting.pop(int(draw.integers(len(waiting))))
            client.label(chosen)
            acknowledged.append(f"p{chosen}")
        time.sleep(0.0005)


def killed_often(folder: Path, kills: int) -> None:
    """Kill the learner at random moments under load; then everything is as in one replay of the log."""
    settings = spec(mode="live", checkpoint=200)
    setup = setup_of(folder, settings)
    draw, stop = np.random.default_rng(1), threading.Event()
    acknowledged: list[str] = []
    with learning(setup):  # compiles, and publishes the first snapshot
        pass
    client = threading.Thread(target=work, args=(setup, stop, acknowledged))
    client.start()
    last = 0
    try:
        for _ in range(kills):
            with learning(setup) as process:
                time.sleep(float(draw.uniform(0.0, 0.3)))
                process.kill()
                process.wait(60)
            reader = reader_of(setup)
            reader.check()
            assert reader.current().sequence >= last
            last = reader.current().sequence
    finally:
        stop.set()
        client.join()
    with learning(setup) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    log = connect(f"{setup.home}/log.sqlite")
    kept = log.read(0, 1_000_000)
    keys = {f"prediction:{one.payload.id}" for one in kept if isinstance(one.payload, Prediction)}
    labels = [one.payload.id for one in kept if isinstance(one.payload, Label)]
    assert set(acknowledged) == keys | set(labels)
    assert len(labels) == len(set(labels))
    with Loop(settings, Path(setup.home)) as loop:
        disturbed, _ = loop.fold.state()
    replayed, _ = replay(log, settings, folder / "replayed").state()
    assert disturbed.keys() == replayed.keys()
    assert [name for name in replayed if disturbed[name].tobytes() != replayed[name].tobytes()] == []
    assert int(replayed["learner/metrics/champion/counts"][0]) == len(labels) > 100


def replay(log: Log, settings: Spec, folder: Path) -> Fold:
    """One fold of the whole log that nobody disturbs; what it decides is kept beside."""
    versions = Versions(Blobs(folder))
    fold = Fold(settings, versions, log)

    def note(commits: Iterable[Commit]) -> None:
        for payload in [payload for commit in commits for payload in commit.payloads]:
            if isinstance(payload, Born | Decision):
                versions.note(payload)

    note(fold.start(0))
    after = 0
    while batch := log.read(after, 1000):
        after = batch[-1].position
        note(fold.events(batch))
    return fold


def test_a_learner_that_is_killed_loses_nothing_and_learns_nothing_twice(tmp_path):
    killed_often(tmp_path, 3)


@pytest.mark.slow
def test_a_learner_that_is_killed_a_hundred_times_loses_nothing(tmp_path):
    killed_often(tmp_path, 100)
