"""The commands around a server."""

from __future__ import annotations

import pytest

from everlearn import config
from everlearn.app.supervisor import Server
from tests.support.commands import call
from tests.support.tables import write_csv


def test_versions_and_commands_work_while_another_process_has_the_loop_open(data, folder):
    write_csv(folder / "rows.csv", 1500)
    data("init", "rows.csv", "--label", "label")
    data("run")
    path = folder / "everlearn.toml"
    path.write_text(path.read_text() + "\n[serve]\nport = 0\n")
    with Server(config.load("everlearn.toml"), folder / "everlearn.home") as server, server.client() as client:
        client.challenge({"family": "linear"}, "as a test")
        newest = data("versions")["versions"][-1]["id"]
        moved = data("promote", newest, "--reason", "as a test")
        assert moved["version"] == newest
        assert next(one for one in client.versions() if "champion" in one.aliases).id == newest
        (folder / "labels.csv").write_text(f"id,y\n{client.predict({'a': 1.0}).id},1\nnobody,1\n")
        result = data("feedback", "labels.csv", "--id", "id", "--label", "y")
        assert (result["accepted"], result["known"], result["refused"]) == (1, 0, 1)
        assert data("feedback", "labels.csv", "--id", "id", "--label", "y")["known"] == 1


def test_tokens_are_shown_once_and_can_be_revoked(data, folder, capsys):
    write_csv(folder / "rows.csv", 100)
    data("init", "rows.csv", "--label", "label")
    made = data("token", "create", "shop", "--scope", "predict", "--scope", "feedback")
    assert made["token"].startswith("el_shop_")
    assert [one["name"] for one in data("token", "list")["tokens"]] == ["shop"]
    assert made["token"] not in (folder / "everlearn.home" / "tokens.json").read_text()
    data("token", "revoke", "shop")
    assert data("token", "list")["tokens"] == []


def test_erase_forgets_a_value(data, folder, capsys):
    rows = "a,user,y\n" + "".join(f"{row % 7},{'anna' if row % 50 == 0 else 'bob'},{row % 2}\n" for row in range(600))
    (folder / "rows.csv").write_text(rows)
    data("init", "rows.csv", "--label", "y")
    path = folder / "everlearn.toml"
    path.write_text('subject = "user"\n' + path.read_text())  # so that rows of files are appended to the log
    data("run")
    erased = data("erase", "--where", "user=anna", "--reason", "she asked")
    assert erased["detail"]["events"] == {"example": 12}
    capsys.readouterr()
    call("erase", "--where", "anna", expect=1)
    assert "expected FIELD=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("named", [("other.toml",), ("--config", "other.toml"), ("-c", "other.toml")])
def test_serve_takes_its_configuration_like_every_other_command(folder, capsys, named):
    call("serve", *named, expect=1)
    assert "other.toml" in capsys.readouterr().err
