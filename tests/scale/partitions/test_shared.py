from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from everlearn.scale.partitions.shared import SharedArrays, scratch

LIKE = {"w": np.zeros((3, 2), np.float32), "none": np.zeros((0, 4)), "n": np.zeros(1, np.int64)}


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    here = SharedArrays(tmp_path / "arrays", LIKE)
    code = (
        "import sys, numpy as np; from pathlib import Path; from everlearn.scale.partitions.shared import SharedArrays;"
        "like = {'n': np.zeros(1, np.int64), 'none': np.zeros((0, 4)), 'w': np.zeros((3, 2), np.float32)};"
        "SharedArrays(Path(sys.argv[1]), like).write({'w': np.full((3, 2), 7, np.float32), 'none': like['none'],"
        " 'n': np.array([9])})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "arrays")], check=True)
    assert here.views["w"].tolist() == [[7.0, 7.0]] * 3
    assert here.views["n"].tolist() == [9]
    assert (tmp_path / "arrays").stat().st_mode & 0o777 == 0o600


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        SharedArrays(tmp_path / "arrays", LIKE).write({**LIKE, "w": np.zeros((3, 2))})


def test_a_folder_is_removed_at_its_end_and_after_a_kill_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from everlearn.scale.partitions.shared import scratch;"
        "made = scratch(Path(sys.argv[1])); (made.__enter__() / 'data').touch(); os.kill(os.getpid(), 9)"
    )
    with scratch(tmp_path) as kept:
        (kept / "data").touch()
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert len(list(tmp_path.iterdir())) == 2
        with scratch(tmp_path) as other:
            assert sorted(tmp_path.iterdir()) == sorted([kept, other])  # one that is in use stays
            assert (kept / "data").exists()
    assert list(tmp_path.iterdir()) == []
