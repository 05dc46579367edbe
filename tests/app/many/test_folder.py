"""Folders of loops: which loops there are, with which settings and homes, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from everlearn import config
from everlearn.app.many.folder import LoopFolder, Summary, page
from everlearn.errors import ConfigError, InputError
from everlearn.spec import LogSpec, MlflowSpec, Schema, ServeSpec, Spec
from tests.support.loop_folders import folder_of, template


def test_a_loop_is_a_file_a_folder_or_a_home_beside_a_template(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    other = template(seed=7)
    config.save(other, root / "berlin.toml")
    (root / "delft").mkdir()
    config.save(other, root / "delft" / "everlearn.toml")
    (root / "amsterdam.home").mkdir()
    for stray in ("notes", "notes.txt", "-x.toml", "a.b.toml"):
        (root / stray).mkdir()
    folder = LoopFolder(root)
    assert folder.names() == ["amsterdam", "berlin", "delft"]
    assert [folder.spec(name).seed for name in folder.names()] == [0, 7, 7]
    assert [str(folder.home(name).relative_to(root)) for name in folder.names()] == [
        "amsterdam.home",
        "berlin.home",
        "delft/everlearn.home",
    ]
    assert [folder.holds(name) for name in ("amsterdam", "berlin", "notes", "../x", "")] == [True, True] + [False] * 3


def test_new_loops_share_the_settings_of_the_template(tmp_path: Path) -> None:
    folder = LoopFolder(folder_of(tmp_path))
    assert folder.create("a")
    assert folder.create("b")
    assert not folder.create("a")
    assert folder.spec("a") is folder.spec("b") is folder.template
    assert folder.names() == ["a", "b"]
    assert (tmp_path / "a.home").stat().st_mode & 0o777 == 0o700
    for wrong in ("", "a/b", "..", "x" * 49, "ü", "-a"):
        with pytest.raises(InputError, match="expected 1 to 48 letters"):
            folder.create(wrong)


def test_without_a_template_no_loop_is_created_and_a_home_alone_is_none(tmp_path: Path) -> None:
    config.save(template(), tmp_path / "a.toml")
    (tmp_path / "b.home").mkdir()
    folder = LoopFolder(tmp_path)
    assert folder.names() == ["a"]
    assert not folder.holds("b")
    with pytest.raises(ConfigError, match=r"add it as the settings of new loops, or add c\.toml"):
        folder.create("c")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = LoopFolder(tmp_path)
    config.save(template(), tmp_path / "a.toml")
    first = folder.spec("a")
    assert folder.spec("a") is first
    config.save(template(tick=50), tmp_path / "a.toml")
    assert folder.spec("a").tick == 50


def test_a_log_in_a_database_is_named_after_the_loop(tmp_path: Path) -> None:
    folder = LoopFolder(folder_of(tmp_path, template(log=LogSpec(url="postgresql://db.example/ml"))))
    folder.create("shop-7")
    assert folder.spec("shop-7").log.url == "postgresql://db.example/ml?loop=shop-7"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (Spec(schema=Schema(label="y", task="preference", fields={}, vocabulary=9)), "schema.task: got 'preference'"),
        (template(serve=ServeSpec(webhook="https://x.example")), "serve.webhook: got"),
        (template(serve=ServeSpec(traces="http://x.example")), "serve.traces: got"),
        (template(mlflow=MlflowSpec(uri="sqlite:///x")), "mlflow.uri: got"),
        (template(log=LogSpec(url="nats://broker.example/all")), "log.url: got a broker"),
        (template(log=LogSpec(url="postgresql://db.example/ml?loop=one")), "log.url: got `loop=` in a template"),
    ],
)
def test_what_a_loop_among_many_cannot_have_is_refused(tmp_path: Path, settings: Spec, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        LoopFolder(folder_of(tmp_path, settings))


def test_a_folder_must_exist_and_have_homes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        LoopFolder(tmp_path / "none")
    monkeypatch.setenv("EVERLEARN_HOME", "x")
    with pytest.raises(ConfigError, match="Unset it"):
        LoopFolder(tmp_path)


def test_loops_are_spread_evenly_over_processes_and_stay_where_they_are(tmp_path: Path) -> None:
    names = [f"tenant-{i}" for i in range(2000)]
    first, again = LoopFolder(tmp_path, 4), LoopFolder(tmp_path, 4)
    owners = Counter(first.owner(name) for name in names)
    assert set(owners) == {0, 1, 2, 3}
    assert max(owners.values()) < 1.2 * min(owners.values())
    assert [first.owner(name) for name in names] == [again.owner(name) for name in names]


def test_pages_hold_each_name_once(tmp_path: Path) -> None:
    names = [f"n{i:03}" for i in range(250)]
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        part, after, total = page(names, after, 40, "N")
        seen += part
        assert total == 250
    assert seen == names
    assert page(names, "", 40, "24") == (["n024", "n124", "n224", *[f"n24{i}" for i in range(10)]], None, 13)


def test_an_unreadable_summary_is_that_of_a_new_loop(tmp_path: Path) -> None:
    folder = LoopFolder(folder_of(tmp_path))
    folder.create("a")
    assert folder.summary("a") == Summary()
    held = Summary(5, 1.5, "accuracy", 0.75, "v")
    (tmp_path / "a.home" / "summary.json").write_bytes(msgspec.json.encode(held))
    assert folder.summary("a") == held
    (tmp_path / "a.home" / "summary.json").write_bytes(b"{")
    assert folder.summary("a") == Summary()
