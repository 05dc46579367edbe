"""What all processes of a server share: they write only to the log with which the server began."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

import everlearn.app
from everlearn.app.process import append
from everlearn.errors import LogError
from everlearn.events import connect
from everlearn.records import Example


def test_nothing_is_appended_to_a_log_that_was_moved_or_replaced(tmp_path: Path) -> None:
    home, row = tmp_path / "home", Example("a", {}, 1)
    home.mkdir()
    log = connect(str(home / "log.sqlite"), tidy=False)
    try:
        assert append(log, [row]) == [1]
        home.rename(tmp_path / "aside")
        with pytest.raises(LogError, match="deleted or replaced"):
            append(log, [Example("b", {}, 1)])
        home.mkdir()
        connect(str(home / "log.sqlite"), tidy=False).close()
        with pytest.raises(LogError, match="deleted or replaced"):
            append(log, [Example("c", {}, 1)])
    finally:
        log.close()
    with closing(connect(str(tmp_path / "aside" / "log.sqlite"), tidy=False)) as moved:
        assert moved.end() == 1


def test_all_processes_append_in_this_way() -> None:
    folder = Path(everlearn.app.__file__).parent
    bare = [path for path in folder.rglob("*.py") if "log.append(" in path.read_text() and path.name != "process.py"]
    assert bare == []
