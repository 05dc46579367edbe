"""Blobs against tampering with every part of a file, and against processes that are killed while they write."""

from __future__ import annotations

import doctest
import hashlib
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from everlearn.errors import BlobError, ConfigError, ModelError
from everlearn.records import Arrays
from everlearn.version import blobs as module
from everlearn.version import codec
from everlearn.version.blobs import Blobs
from tests.support.snapshots import SPEC, file_of, same, some_arrays

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
array = st.sampled_from(DTYPES).flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0)))
names = texts.filter(lambda name: name != "__metadata__")
headers = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    ),
    max_size=3,
)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def plant(blobs: Blobs, data: bytes) -> str:
    """Put bytes under their true hash, as someone with the folder in hand could."""
    blob = hashlib.sha256(data).hexdigest()
    file_of(blobs, blob).write_bytes(data)
    return blob


# ---- blobs: what was put is what comes back ------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(arrays=st.dictionaries(names, array, max_size=4), header=headers)
def test_arrays_and_header_come_back_bit_for_bit(arrays: Arrays, header: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as home:
        blobs = Blobs(home)
        blob = blobs.put(arrays, header)
        back, read = blobs.get(blob)
        assert same(back, arrays)
        assert read == header
        shuffled = dict(reversed(arrays.items()))
        assert blobs.put(shuffled, dict(reversed(header.items()))) == blob
        assert blobs.hashes() == {blob}
        assert hashlib.sha256(file_of(blobs, blob).read_bytes()).hexdigest() == blob


def test_layout_in_memory_does_not_matter(blobs: Blobs) -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    blob = blobs.put({"a": plain}, {})
    assert blobs.put({"a": np.asfortranarray(plain)}, {}) == blob
    assert blobs.put({"a": np.repeat(plain, 2, axis=1)[:, ::2]}, {}) == blob
    assert blobs.put({"a": plain.astype(">f4")}, {}) == blob
    frozen = plain.copy()
    frozen.flags.writeable = False
    assert blobs.put({"a": frozen}, {}) == blob


def test_what_comes_back_is_yours_to_change(blobs: Blobs) -> None:
    blob = blobs.put(some_arrays(), {})
    arrays, _ = blobs.get(blob)
    arrays["w"][:] = 0
    assert same(blobs.get(blob)[0], some_arrays())


def test_bytes_are_the_same_in_every_process(blobs: Blobs) -> None:
    code = """
        import sys, numpy as np
        from everlearn.version.blobs import Blobs
        header = {"spec": {"b": 1, "a": [True, None, 0.1]}, "é": "ü"}
        print(Blobs(sys.argv[1]).put({"w": np.arange(6.0), "a/b": np.zeros(0, np.int8), "t": np.array(7)}, header))
    """
    found = set()
    for seed in ("1", "2", "3"):
        command = [sys.executable, "-c", textwrap.dedent(code), str(blobs.place)]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True)
        found.add(done.stdout.strip())
    assert len(found) == 1
    assert blobs.hashes() == found


def test_a_blob_that_is_there_is_not_written_again(blobs: Blobs) -> None:
    blob = blobs.put(some_arrays(), {})
    os.utime(file_of(blobs, blob), (1, 1))
    assert blobs.put(some_arrays(), {}) == blob
    assert file_of(blobs, blob).stat().st_mtime == 1


def test_putting_the_content_again_heals_a_damaged_blob(blobs: Blobs) -> None:
    blob = blobs.put(some_arrays(), {})
    file_of(blobs, blob).write_bytes(b"")
    assert blobs.put(some_arrays(), {}) == blob
    assert same(blobs.get(blob)[0], some_arrays())


def test_power_leaves_the_same_bytes(tmp_path: Path, blobs: Blobs) -> None:
    synced = Blobs(tmp_path / "synced", "power")
    assert synced.put(some_arrays(), {"a": 1}) == blobs.put(some_arrays(), {"a": 1})
    assert synced.hashes() == blobs.hashes()


def test_any_safetensors_reader_can_open_a_blob(blobs: Blobs) -> None:
    blob = blobs.put(some_arrays(), {"spec": SPEC})
    assert same(safetensors.numpy.load_file(file_of(blobs, blob)), some_arrays())
    with safetensors.safe_open(file_of(blobs, blob), "np") as opened:
        assert json.loads(opened.metadata()["everlearn"]) == {"format": 1, "header": {"spec": SPEC}}


# ---- blobs: what cannot be put -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "header", "says"),
    [
        ({"a": np.array([object()])}, {}, r"array 'a' has dtype object; a snapshot holds only bool, float16"),
        ({"a": np.array(["x"])}, {}, "array 'a' has dtype <U1"),
        ({"a": np.array([1j])}, {}, "array 'a' has dtype complex128"),
        ({"a": np.array(["2020-01-01"], "datetime64[D]")}, {}, "array 'a' has dtype datetime64"),
        ({"__metadata__": np.zeros(1)}, {}, "may not be named '__metadata__'"),
        ({"\ud800": np.zeros(1)}, {}, "cannot be stored"),
        ({}, {"x": math.nan}, "the header cannot be stored"),
        ({}, {"x": object()}, "the header cannot be stored: .*expected finite numbers, text, lists and dicts"),
    ],
)
def test_what_cannot_be_stored_is_refused(blobs: Blobs, arrays: Any, header: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        blobs.put(arrays, header)
    assert list(blobs.place.iterdir()) == []


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
        import resource, sys, numpy as np
        from everlearn.errors import BlobError
        from everlearn.version.blobs import Blobs
        blobs = Blobs(sys.argv[1], "power")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            blobs.put({"w": np.zeros(10_000)}, {})
        except BlobError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot be written to" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobError, match="give a folder you can write"):
        Blobs(tmp_path / "file" / "blobs")
    with pytest.raises(ConfigError, match="expected 'process' or 'power'"):
        Blobs(tmp_path, "paper")


def test_sigkill_leaves_whole_blobs_only(blobs: Blobs) -> None:
    code = """
        import sys, numpy as np
        from everlearn.version.blobs import Blobs
        blobs = Blobs(sys.argv[1])
        for number in range(10**6):
            print(blobs.put({"w": np.full(200_000, float(number) + float(sys.argv[2]))}, {}), flush=True)
    """
    moments = random.Random(0)
    for kill in range(4):
        command = [sys.executable, "-c", textwrap.dedent(code), str(blobs.place), str(kill / 8)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            said = {
                line.strip() for line in (first + process.stdout.read()).splitlines(keepends=True) if line[-1:] == "\n"
            }
        assert said <= blobs.hashes()
        for blob in blobs.hashes():
            assert blobs.get(blob)[0]["w"].shape == (200_000,)
            blobs.remove(blob)


def test_unfinished_files_go_when_they_are_old(blobs: Blobs) -> None:
    old, new = blobs.place / ".aa.1.1.unfinished", blobs.place / ".bb.1.1.unfinished"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1, 1))
    Blobs(blobs.place)
    assert [path.exists() for path in (old, new)] == [False, True]
    assert blobs.hashes() == set()


def test_threads_may_put_the_same_content_at_once(blobs: Blobs) -> None:
    found: list[str] = []
    arrays = {"w": np.arange(50_000.0)}
    threads = [threading.Thread(target=lambda: found.append(blobs.put(arrays, {}))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert same(blobs.get(found[0])[0], arrays)
    assert [path.name for path in blobs.place.iterdir()] == [f"{found[0]}.safetensors"]


# ---- blobs: what must not come back --------------------------------------------------------------------------------


def test_every_changed_byte_is_noticed(blobs: Blobs) -> None:
    blob = blobs.put({"w": np.arange(4.0)}, {"spec": SPEC})
    whole = file_of(blobs, blob).read_bytes()
    for index in range(len(whole)):
        changed = bytearray(whole)
        changed[index] ^= 1
        file_of(blobs, blob).write_bytes(changed)
        with pytest.raises(BlobError, match=r"is (damaged|truncated): .*put back the file from a copy"):
            blobs.get(blob)


def test_every_truncation_is_noticed_and_called_so(blobs: Blobs) -> None:
    blob = blobs.put({"w": np.arange(4.0)}, {"spec": SPEC})
    whole = file_of(blobs, blob).read_bytes()
    for length in range(len(whole)):
        file_of(blobs, blob).write_bytes(whole[:length])
        with pytest.raises(BlobError, match="is truncated"):
            blobs.get(blob)


def test_bytes_added_at_the_end_are_noticed(blobs: Blobs) -> None:
    blob = blobs.put(some_arrays(), {})
    with file_of(blobs, blob).open("ab") as opened:
        opened.write(b"\0")
    with pytest.raises(BlobError, match="is damaged"):
        blobs.get(blob)


def test_a_missing_blob_says_so_and_may_be_removed_again(blobs: Blobs) -> None:
    blob = blobs.put(some_arrays(), {})
    blobs.remove(blob)
    blobs.remove(blob)
    with pytest.raises(BlobError, match="it was pruned, or the file was lost"):
        blobs.get(blob)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 64 + "/x"])
def test_names_that_are_no_hash_touch_no_file(blobs: Blobs, name: str) -> None:
    for act in (blobs.get, blobs.remove):
        with pytest.raises(BlobError, match="expected the 64 hex digits of a sha256"):
            act(name)


def tensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ATTACKS = {
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "overlapping offsets": tensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "a hole between tensors": tensors({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "offsets beyond the end": tensors({"a": entry(0, 800, (200,))}, bytes(8)),
    "offsets that run backwards": tensors({"a": entry(8, 0)}, bytes(8)),
    "negative offsets": tensors({"a": entry(-8, 0)}, bytes(8)),
    "a shape that does not fit": tensors({"a": entry(0, 8, (3,))}, bytes(8)),
    "a shape whose product overflows": tensors({"a": entry(0, 8, (2**62, 8))}, bytes(8)),
    "an unknown dtype": tensors({"a": entry(0, 8, (2,), "PY_OBJECT")}, bytes(8)),
    "a dtype that numpy lacks": tensors({"a": entry(0, 4, (2,), "BF16")}, bytes(4)),
    "bytes that no tensor owns": tensors({"a": entry(0, 8)}, bytes(100)),
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "JSON without end": struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
    "a header that is a list": struct.pack("<Q", 2) + b"[]",
    "the same name twice": struct.pack("<Q", 116)
    + (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    ).ljust(116)
    + bytes(8),
    "empty": b"",
    "seven bytes": bytes(7),
    "no metadata": tensors({"a": entry(0, 8)}, bytes(8)),
    "empty metadata": tensors({"__metadata__": None, "a": entry(0, 8)}, bytes(8)),
    "foreign metadata": tensors({"__metadata__": {"format": "pt"}, "a": entry(0, 8)}, bytes(8)),
    "metadata that is no JSON": tensors({"__metadata__": {"everlearn": "{"}, "a": entry(0, 8)}, bytes(8)),
    "metadata that is a number": tensors({"__metadata__": {"everlearn": "1"}, "a": entry(0, 8)}, bytes(8)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_end_in_a_blob_error_under_their_own_hash_and_under_another(blobs: Blobs, attack: str) -> None:
    planted = plant(blobs, ATTACKS[attack])
    with pytest.raises(BlobError, match=r"can be read|not written by Everlearn"):
        blobs.get(planted)
    true = blobs.put(some_arrays(), {})
    file_of(blobs, true).write_bytes(ATTACKS[attack])
    with pytest.raises(BlobError, match=r"is (damaged|truncated)"):
        blobs.get(true)


def test_a_newer_format_is_refused(blobs: Blobs) -> None:
    blob = plant(blobs, safetensors.numpy.save(some_arrays(), {"everlearn": '{"format":3,"header":{}}'}))
    with pytest.raises(BlobError, match="format: got 3; expected 1 or 2"):
        blobs.get(blob)


def test_a_blob_of_another_folder_is_taken_byte_by_byte(blobs: Blobs, tmp_path: Path) -> None:
    other = Blobs(tmp_path / "other")
    for packed in (False, True):
        blob = other.put({"w": np.zeros(1 << 16)}, {"a": 1}, packed)
        blobs.take(other, blob)
        assert file_of(blobs, blob).read_bytes() == file_of(other, blob).read_bytes()
        assert blobs.sizes()[blob] == len(file_of(other, blob).read_bytes())
    assert "0" * 64 not in blobs.sizes()
    with pytest.raises(BlobError, match="it was pruned, or the file was lost"):
        blobs.take(other, "0" * 64)


def test_a_packed_header_that_does_not_fit_is_refused(blobs: Blobs) -> None:
    entry = '{"format":2,"header":{"packed":{"w":{"dtype":"float64","shape":[65536]}}}}'
    blob = plant(blobs, safetensors.numpy.save({"w": np.zeros(3, np.uint8)}, {"everlearn": entry}))
    with pytest.raises(BlobError, match="the array 'w' of a snapshot cannot be unpacked"):
        blobs.get(blob)


def test_other_files_in_the_folder_are_no_blobs(blobs: Blobs) -> None:
    (blobs.place / "notes.txt").write_text("mine")
    (blobs.place / "model.safetensors").write_bytes(b"mine")
    assert blobs.hashes() == set()


def test_examples_in_the_docs() -> None:
    done = doctest.testmod(module)
    assert done.attempted == 3
    assert done.failed == 0


@pytest.mark.parametrize("size", [0, 1, 9_000, 100_000])
def test_blocks_of_zeros_are_read_back_and_take_no_disk(blobs: Blobs, size: int) -> None:
    table = np.zeros(size)
    table[size // 3 : size // 3 + 5] = 0.5
    blob = blobs.put({"table": table, "last": np.zeros(3)}, {})
    data = file_of(blobs, blob).read_bytes()
    assert data == codec.dump({"table": table, "last": np.zeros(3)}, {})
    assert blobs.get(blob)[0]["table"].tobytes() == table.tobytes()
    if size == 100_000:
        assert file_of(blobs, blob).stat().st_blocks * 512 < len(data) / 2
