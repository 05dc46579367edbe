"""What serves: no read is torn, whoever is killed; old snapshots stay while they are used; nothing is copied."""

from __future__ import annotations

import ast
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.errors import BlobError, ConfigError, ModelError
from everlearn.serve import snapshot
from everlearn.serve.snapshot import Answering, Publisher, Reader
from everlearn.version import codec
from tests.support import ROOT
from tests.support.models import Mean, examples, mixed_rows
from tests.support.published import filled


def serving(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def child(function: str, *arguments: Any) -> Iterator[subprocess.Popen[str]]:
    code = f"from tests.support import published as t; from pathlib import Path; print(t.{function}(*{arguments!r}))"
    code = code.replace("PosixPath", "Path")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def race(folder: Path, readers: int, reads: int, size: int) -> list[tuple[int, int]]:
    """(snapshots seen, torn reads) of each of several readers beside one publisher."""
    with ExitStack() as stack:
        stack.enter_context(child("publish_for_ever", folder, size))
        processes = [stack.enter_context(child("read_many", folder, reads)) for _ in range(readers)]
        return [ast.literal_eval(one.communicate()[0]) for one in processes]


class Copying:
    """A model that copies its arrays, as those do that hold tensors elsewhere."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self._held = spec, {"w": np.zeros(3)}

    @property
    def arrays(self) -> dict[str, Any]:
        return self._held

    @arrays.setter
    def arrays(self, arrays: dict[str, Any]) -> None:
        self._held = {name: array.copy() for name, array in arrays.items()}

    def learned(self, value: float) -> Copying:
        self._held["w"][:] = value
        return self


@pytest.mark.parametrize("reuse", [False, True])
def test_models_that_copy_are_filled_again_two_snapshots_later(tmp_path, reuse):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, Copying, reuse=reuse)
    spec, models = {"family": "tests:copying"}, []
    for number in range(5):
        one, rival = (Copying(spec).learned(number + more) for more in (0.0, 0.5))
        publisher.publish(Answering("a", one), None, number, {}, Answering("b", rival))
        seen = reader.current()
        assert seen.champion.model.arrays["w"].tolist() == [number] * 3
        assert seen.rival.model.arrays["w"].tolist() == [number + 0.5] * 3
        if models:  # the snapshot before is whole until the next one is taken
            assert [one.arrays["w"][0] for one in models[-1]] == [number - 1, number - 0.5]
        models.append((seen.champion.model, seen.rival.model))
    different = {id(one) for pair in models for one in pair}
    assert len(different) == (4 if reuse else 10)


def test_no_read_is_torn(tmp_path):
    results = race(serving(tmp_path / "s"), readers=2, reads=30_000, size=500)
    assert [torn for _, torn in results] == [0, 0]
    assert min(seen for seen, _ in results) > 100


@pytest.mark.slow
def test_no_read_is_torn_in_ten_million(tmp_path):
    results = race(serving(tmp_path / "s"), readers=2, reads=5_000_000, size=500)
    assert [torn for _, torn in results] == [0, 0]


def test_readers_go_on_whenever_the_publisher_is_killed(tmp_path):
    folder, draw = serving(tmp_path / "s"), np.random.default_rng(5)
    reader = Reader(folder, model.build, patience=60)
    last = 0
    for _ in range(6):
        with child("publish_for_ever", folder, 20_000) as publisher:
            before = last
            while reader.current().sequence < before + 3:  # it goes on above what anybody has seen
                time.sleep(0.001)
            for _ in range(int(draw.integers(1, 400))):
                held = reader.current()
                reader.check()
                assert held.sequence >= last
                assert (held.champion.model.arrays["a"] == held.sequence % 100).all()
                last = held.sequence
            os.kill(publisher.pid, signal.SIGKILL)
        reader.check()
        last = reader.current().sequence
    Publisher(folder).close()
    assert not list(folder.glob(".*"))  # what the last one left half-done is swept up


def test_what_is_published_is_what_is_read(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    champion, canary = filled(3), filled(4, size=7)
    extra = {"low": np.arange(3.0), "deep/high": np.ones((2, 2), np.float32)}
    assert publisher.publish(Answering("abc", champion), Answering("def", canary), 77, extra) == 1
    held = reader.current()
    assert (held.sequence, held.position, held.champion.version) == (1, 77, "abc")
    assert held.champion.model.spec == champion.spec
    assert model.compare(champion.arrays, held.champion.model.arrays) == []
    assert (held.champion.model.arrays["b"] == 3).all()
    assert held.canary is not None
    assert held.canary.version == "def"
    assert (held.canary.model.arrays["a"] == 4).all()
    assert sorted(held.arrays) == ["deep/high", "low"]
    assert held.arrays["low"].tolist() == [0.0, 1.0, 2.0]
    assert publisher.publish(Answering("abc", champion), None, 78, {}) == 2
    assert reader.current().canary is None


def test_a_rival_and_the_uids_of_contestants_are_published(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    publisher.publish(Answering("v", filled(1), uid=7), None, 1, {}, Answering("w", filled(2), uid=9))
    found = reader.current()
    assert found.rival is not None
    assert (found.champion.uid, found.rival.uid, found.rival.version) == (7, 9, "w")
    assert (found.champion.model.arrays["a"][0], found.rival.model.arrays["a"][0]) == (1, 2)
    publisher.publish(Answering("v", filled(1)), None, 2, {})
    assert (reader.current().rival, reader.current().champion.uid) == (None, 0)


def test_what_only_learning_needs_stays_with_who_learns(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    champion, canary = (model.build({"family": "tests.support.published:Averaged"}) for _ in range(2))
    rows = examples(20)
    for turn in range(3):
        champion.learn(rows.batch, rows.y + turn, rows.weight)
        canary.learn(rows.batch, rows.y - turn, rows.weight)
        publisher.publish(Answering("v", champion), Answering("w", canary), turn, {"learn/x": np.ones(3)})
        assert (folder / snapshot.CURRENT).stat().st_size < 2000  # of 800,000 bytes
        held = reader.current()
        reader.check()
        assert held.canary is not None
        for served, learned in ((held.champion.model, champion), (held.canary.model, canary)):
            assert served.predict(rows.batch).tobytes() == learned.predict(rows.batch).tobytes()
            assert served.arrays["learn/seen"] == 0
        assert held.arrays["learn/x"].tolist() == [1, 1, 1]  # what else workers need is theirs, whatever its name
    assert champion.arrays["learn/seen"] == 60


def test_a_snapshot_without_what_answering_needs_is_refused(tmp_path):
    folder = serving(tmp_path / "s")
    made = model.build({"family": "tests.support.published:Averaged"})
    publisher, reader = Publisher(folder), Reader(folder, model.build, patience=0.0)
    made.arrays = {"mean": np.zeros(2)}
    publisher.publish(Answering("v", made), None, 1, {})
    with pytest.raises(BlobError, match=r"'mean' has shape \(2,\), expected \(1,\)"):
        reader.current()


def test_nothing_changed_means_the_same_object(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    publisher.publish(Answering("v", filled(1)), None, 1, {})
    held = reader.current()
    publisher.reached(5)
    publisher.fresh(3.0)
    assert reader.current() is held
    assert reader.position() == 5
    assert reader.staleness(3.25) == 0.25
    assert reader.staleness(2.0) == 0.0


def test_an_old_snapshot_stays_as_it_was_for_as_long_as_it_is_held(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    held = []
    for value in range(5):
        publisher.publish(Answering("v", filled(value)), Answering("w", filled(value + 50)), value, {})
        held.append(reader.current())
    for value, one in enumerate(held):
        assert (one.champion.model.arrays["a"] == value).all()
        assert one.canary is not None
        assert (one.canary.model.arrays["a"] == value + 50).all()


@pytest.mark.parametrize("family", ["Filled", "Pinned"])
def test_champion_and_canary_of_one_spec_do_not_share_numbers(tmp_path, family):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    one, other = (model.build({"family": f"tests.support.published:{family}"}) for _ in range(2))
    batch = examples(1).batch
    for value in (1.0, 2.0, 3.0):
        one.arrays["a"][...], other.arrays["a"][...] = value, -value
        publisher.publish(Answering("v", one), Answering("w", other), 1, {})
        held = reader.current()
        assert held.canary is not None
        assert held.champion.model.predict(batch)[0, 0] == value
        assert held.canary.model.predict(batch)[0, 0] == -value


def test_arrays_are_views_of_the_file_that_nobody_can_write(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    publisher.publish(Answering("v", filled(1, size=100_000)), None, 1, {})
    array = reader.current().champion.model.arrays["a"]
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2.0


def test_a_reader_keeps_neither_memory_nor_files(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    made, opened = filled(size=10_000), []
    for _ in range(50):
        publisher.publish(Answering("v", made), None, 1, {})
        reader.current()
        opened.append(len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0)
    assert opened[-1] == opened[1]
    maps = Path("/proc/self/maps")
    assert not maps.exists() or maps.read_text().count(str(folder / snapshot.CURRENT)) <= 1


def test_a_new_publisher_goes_on_above_the_old_one_even_if_that_died_before_its_word(tmp_path):
    folder = serving(tmp_path / "s")
    first = Publisher(folder)
    first.publish(Answering("v", filled(1)), None, 9, {})
    words = (folder / snapshot.WORDS).read_bytes()
    first.publish(Answering("w", filled(2)), None, 10, {})
    with (folder / snapshot.WORDS).open("r+b") as file:
        file.write(words)  # as if it had been killed after the rename
    reader = Reader(folder, model.build)
    held = reader.current()
    assert held.champion.version == "w"
    assert reader.current() is held  # and is not mapped again with every call
    second = Publisher(folder)
    assert (second.sequence, second.position, second.version) == (2, 10, "w")
    assert second.publish(Answering("x", filled(3)), None, 11, {}) == 3
    assert reader.current().champion.version == "x"


def test_a_snapshot_that_is_behind_the_word_is_used_and_looked_at_again(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    publisher.publish(Answering("v", filled(1)), None, 1, {})
    old = (folder / snapshot.CURRENT).read_bytes()
    publisher.publish(Answering("w", filled(2)), None, 2, {})
    new = (folder / snapshot.CURRENT).read_bytes()
    (folder / snapshot.CURRENT).write_bytes(old)  # the rename is not visible here yet
    assert reader.current().champion.version == "v"
    (folder / "next").write_bytes(new)
    (folder / "next").replace(folder / snapshot.CURRENT)
    assert reader.current().champion.version == "w"


def future(folder: Path, sequence: int) -> None:
    """Put a snapshot of a format to come in place."""
    header = {"kind": "snapshot", "format": 99, "sequence": sequence, "secret": True}
    (folder / "next").write_bytes(codec.dump({"champion/a": np.zeros(3)}, header))
    (folder / "next").replace(folder / snapshot.CURRENT)


def test_a_newer_format_is_a_clear_error_and_the_old_snapshot_goes_on(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    publisher.publish(Answering("v", filled(1)), None, 1, {})
    held = reader.current()
    publisher.publish(Answering("w", filled(2)), None, 2, {})
    future(folder, 2)
    assert reader.current() is held
    assert "format 99" in reader.trouble
    assert "a newer one wrote it" in reader.trouble
    with pytest.raises(BlobError, match="reads kind 'snapshot' and format 1"):
        Reader(folder, model.build, patience=0).current()
    publisher.publish(Answering("x", filled(3)), None, 3, {})
    assert reader.current().champion.version == "x"
    assert reader.trouble == ""


def test_what_cannot_be_read_makes_nothing_fresher(tmp_path):
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    publisher.publish(Answering("v", filled(1)), None, 1, {})
    publisher.fresh(10.0)
    reader.current()
    assert reader.staleness(11.0) == 1.0
    publisher.publish(Answering("w", filled(2)), None, 2, {})
    publisher.fresh(20.0)
    assert reader.staleness(21.0) == 11.0  # of the snapshot that is held
    future(folder, 2)
    reader.current()
    assert reader.trouble
    assert reader.staleness(22.0) == 12.0
    publisher.publish(Answering("x", filled(3)), None, 3, {})
    publisher.fresh(30.0)
    reader.current()
    assert reader.staleness(31.0) == 1.0


def test_a_process_without_descriptors_goes_on_with_what_it_holds_and_looks_again(tmp_path):
    resource = pytest.importorskip("resource")
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build, patience=0.0)
    publisher.publish(Answering("v", filled(1)), None, 1, {})
    held = reader.current()
    publisher.publish(Answering("w", filled(2)), None, 2, {})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        assert reader.current() is held
        assert "Too many open files" in reader.trouble
        with pytest.raises(BlobError, match="Too many open files"):
            Reader(folder, model.build, patience=0.0).current()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert reader.current().champion.version == "w"
    assert reader.trouble == ""


def test_a_new_publisher_replaces_what_it_cannot_read(tmp_path):
    folder = serving(tmp_path / "s")
    Publisher(folder).publish(Answering("v", filled(1)), None, 1, {})
    future(folder, 5)
    publisher = Publisher(folder)
    assert (publisher.version, publisher.position) == ("", 0)
    assert publisher.publish(Answering("w", filled(2)), None, 2, {}) == 2


@pytest.mark.parametrize("size", [500, 50_000])
def test_a_changed_byte_is_found(tmp_path, size):
    folder = serving(tmp_path / "s")
    Publisher(folder).publish(Answering("v", filled(1, size=size)), None, 1, {})
    data = bytearray((folder / snapshot.CURRENT).read_bytes())
    data[-1] ^= 1
    (folder / snapshot.CURRENT).write_bytes(data)
    reader = Reader(folder, model.build)
    with pytest.raises(BlobError, match="is damaged: its .* bytes have the checksum"):
        reader.check()  # a small file is looked through when it is mapped, a large one when asked


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 64])
def test_what_is_no_snapshot_is_refused(tmp_path, content):
    folder = serving(tmp_path / "s")
    (folder / snapshot.CURRENT).write_bytes(content)
    with pytest.raises(BlobError, match=r"current\.safetensors"):
        Reader(folder, model.build).current()


def test_arrays_that_are_not_those_of_the_spec_are_refused(tmp_path):
    folder = serving(tmp_path / "s")
    odd = filled(1)
    odd.arrays["a"] = np.zeros(3)
    Publisher(folder).publish(Answering("v", odd), None, 1, {})
    with pytest.raises(BlobError, match=r"does not fit its own model: 'a' has shape \(3,\), expected \(500,\)"):
        Reader(folder, model.build).current()


def test_a_reader_waits_for_the_first_snapshot(tmp_path):
    folder = serving(tmp_path / "s")
    reader = Reader(folder, model.build, patience=30)
    assert reader.staleness(1.0) == math.inf
    timer = threading.Timer(0.1, lambda: Publisher(folder).publish(Answering("v", filled(1)), None, 1, {}))
    timer.start()
    assert reader.current().sequence == 1
    timer.join()
    assert reader.position() == 1


def test_a_reader_without_a_publisher_says_so(tmp_path):
    with pytest.raises(BlobError, match=r"nothing to serve in .* after 0\.05 s; the learner publishes there"):
        Reader(serving(tmp_path / "s"), model.build, patience=0.05).current()


def test_a_full_disk_leaves_what_serves(tmp_path):
    resource = pytest.importorskip("resource")
    folder = serving(tmp_path / "s")
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    publisher.publish(Answering("v", filled(1)), None, 1, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(BlobError, match="cannot be written .* what was published before goes on serving"):
            publisher.publish(Answering("w", filled(2, size=50_000)), None, 2, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert reader.current().champion.version == "v"
    assert not list(folder.glob(".*"))
    assert publisher.publish(Answering("w", filled(2)), None, 2, {}) == 2


def test_what_cannot_be_stored_is_refused_with_nothing_changed(tmp_path):
    folder = serving(tmp_path / "s")
    publisher = Publisher(folder)
    with pytest.raises(ModelError, match="dtype complex128"):
        publisher.publish(Answering("v", filled(1)), None, 1, {"z": np.zeros(1, complex)})
    with pytest.raises(ModelError, match="cannot be stored"):
        publisher.publish(Answering("v", filled(1, odd={1, 2})), None, 1, {})
    assert not (folder / snapshot.CURRENT).exists()


def test_the_folder_of_a_home_is_always_the_same_and_ours_alone(tmp_path, monkeypatch):
    home = tmp_path / "home"
    found = snapshot.folder(home)
    try:
        assert found == snapshot.folder(home)
        assert found.stat().st_mode & 0o777 == 0o700
        assert found != snapshot.folder(tmp_path / "other")
        monkeypatch.chdir(tmp_path)
        assert snapshot.folder(Path("home")) == found
    finally:
        for name in ("home", "other"):
            with suppress(FileNotFoundError):
                snapshot.folder(tmp_path / name).rmdir()


def test_without_room_in_memory_the_home_has_the_folder(tmp_path):
    found = snapshot.folder(tmp_path / "home", room=1 << 60)
    assert found == tmp_path / "home" / "serving"
    assert found.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_may_enter_is_refused(tmp_path, mode):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving").chmod(mode)
    with pytest.raises(ConfigError, match="is not a folder of this user alone"):
        snapshot.folder(tmp_path, room=1 << 60)


def test_a_link_or_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "serving").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is not a folder of this user alone"):
        snapshot.folder(tmp_path, room=1 << 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize("opened", [lambda path: Publisher(path), lambda path: Reader(path, model.build)])
def test_a_folder_of_another_user_is_refused(tmp_path, opened):
    (tmp_path / "serving").mkdir(mode=0o700)
    os.chown(tmp_path / "serving", 65534, 65534)
    with pytest.raises(ConfigError, match="got owner 65534"):
        snapshot.folder(tmp_path, room=1 << 60)
    with pytest.raises(ConfigError, match="got owner 65534"):
        opened(tmp_path / "serving")


PREDICTS = """
from pathlib import Path
import sys
import numba.core.event as event
from everlearn import model
from everlearn.serve.snapshot import Reader
from tests.support.models import mixed_rows
compiled = []
class Count(event.Listener):
    def on_start(self, event): compiled.append(event)
    def on_end(self, event): pass
event.register("numba:compile", Count())
said = Reader(Path(sys.argv[1]), model.build).current().champion.model.predict(mixed_rows())
print(len(compiled), said.tobytes().hex())
"""


def test_the_kernels_of_another_process_take_read_only_arrays_and_are_not_compiled_again(tmp_path):
    folder = serving(tmp_path / "s")
    some = examples(200, dense=10)
    made = model.build({"family": "linear", "task": "binary", "dense": 10, "hashed": 256, "classes": 2})
    made.learn(some.batch, some.y, some.weight)
    Publisher(folder).publish(Answering("v", made), None, 1, {})
    expected = made.predict(mixed_rows()).tobytes().hex()
    for _ in range(2):  # the first may have to fill the cache
        command = [sys.executable, "-c", PREDICTS, str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", expected]


def test_closing_twice_is_fine_and_what_serves_goes_on(tmp_path):
    folder = serving(tmp_path / "s")
    publisher = Publisher(folder)
    publisher.publish(Answering("v", Mean()), None, 1, {})
    publisher.close()
    publisher.close()
    assert Reader(folder, model.build).current().champion.version == "v"
