"""The commands on a home as a whole."""

from __future__ import annotations

import shutil

from tests.support.commands import call
from tests.support.tables import write_csv


def test_a_home_is_backed_up_rebuilt_and_checked(data, folder, capsys):
    write_csv(folder / "rows.csv", 1500)
    data("init", "rows.csv", "--label", "label")
    first = data("run")
    home = folder / "everlearn.home"
    done = data("backup", "copy")
    assert done["versions"] == len(data("versions")["versions"])
    assert (folder / "copy" / "log.sqlite").exists()
    call("backup", "copy", expect=1)
    assert "expected an empty folder" in capsys.readouterr().err
    shutil.rmtree(home / "blobs")
    (folder / "rows.csv").rename(folder / "moved.csv")
    call("rebuild", expect=1)
    assert "rows.csv: the file is missing" in capsys.readouterr().err.replace("\n", "")
    (folder / "moved.csv").rename(folder / "rows.csv")
    rebuilt = data("rebuild")
    assert (rebuilt["rows"], rebuilt["champion"]) == (1500, first["champion"])
    assert data("run")["champion"] == first["champion"]
    path = folder / "everlearn.toml"
    path.write_text("tick = 7\nseed = 1\n" + path.read_text())
    capsys.readouterr()
    call("check", "--home", "--json", expect=1)
    assert '"seed"' in capsys.readouterr().out
    call("check", expect=1)
    assert "expected one of the two" in capsys.readouterr().err
