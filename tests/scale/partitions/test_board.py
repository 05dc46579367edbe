from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from everlearn.scale.partitions.board import Board, StepRecord

POST = """
import sys
from pathlib import Path
from everlearn.scale.partitions.board import Board, StepRecord
Board(Path(sys.argv[1]), 2).post(1, 4, StepRecord(7, 70, 80, 1, 9, 10))
"""


def test_a_step_is_reached_when_all_have_posted_it(tmp_path: Path) -> None:
    board = Board(tmp_path, 2)
    board.begin(3)
    own = StepRecord(5, 60, 80, 0, 1, 2)
    board.post(0, 4, own)
    assert board.reached() == (4, 3)
    other = subprocess.Popen([sys.executable, "-c", POST, str(tmp_path)])
    board.wait(4)
    assert board.records(4) == [own, StepRecord(7, 70, 80, 1, 9, 10)]
    assert board.record(0, 4) == own
    assert other.wait() == 0
    board.close()
