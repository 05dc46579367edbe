"""How a loop is: numbers that agree with the loop's own, bounded in size, and drawn where they were drawn before."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from rich.console import Console

import everlearn
from everlearn import metrics, report
from everlearn.loop.status import MARKS, POINTS, Marks, stale
from everlearn.records import Example, Label
from everlearn.report import Watch
from everlearn.spec import DriftSpec, GateSpec, ReplaySpec
from everlearn.stream import read
from tests.support import ROOT
from tests.support.loops import FIELDS, spec, table


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A loop that has promoted, and seen drift, on a stream that turns round twice."""
    settings = spec(tick=20, gate=GateSpec(minimum=100, promote="snapshot"), drift=DriftSpec(grace_period=200))
    with everlearn.open(settings, home=tmp_path_factory.mktemp("ran") / "home") as loop:
        loop.run(read(table(7000), schema=settings.schema))
        yield loop


def test_a_loop_that_has_not_begun_has_a_status_of_the_same_shape(tmp_path, ran):
    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        now = loop.status()
        assert now.keys() == ran.status().keys()
        assert now["examples"] == now["position"] == now["end"] == 0
        assert now["contestants"] == now["gate"] == now["marks"] == []
        assert now["aliases"] == {}
        loop.predict({"a": 1.0, "b": 2.0, "c": "c1"})
        now = loop.status()
        assert [one["role"] for one in now["contestants"]] == ["frozen", "champion"]
        assert {one["family"] for one in now["contestants"]} == {"linear"}
        assert now["aliases"]["champion"] == loop.versions()[0].id
        assert now["waiting"] == now["counts"]["prediction"] == 1


def test_the_members_of_a_mix_have_their_weights(tmp_path):
    model = {"family": "mix", "members": [{"family": "linear"}, {"family": "forest", "trees": 2}], "price": 100.0}
    with everlearn.open(spec(model=model), home=tmp_path / "home") as loop:
        loop.run(read(table(2500), schema=spec().schema))
        found, text = loop.status()["members"]["champion"], io.StringIO()
        Watch(loop.status, Console(file=text, width=200))
        assert loop.report()["members"] == loop.status()["members"]
        assert [one["members"] for one in loop.status()["contestants"] if one["role"] == "champion"] == [found]
    assert [one["name"] for one in found] == ["0 linear", "1 forest"]
    assert [one["resting"] for one in found] == [False, True]
    assert found[0]["weight"] > 0.5
    assert found[1]["weight"] == 0.0
    assert f"mix of the champion: linear {found[0]['weight']:.2f}, forest at rest" in text.getvalue()


def test_numbers_are_those_that_the_loop_reports(ran):
    now, said = ran.status(), ran.report()
    assert now["metrics"] == said["metrics"]
    assert now["examples"] == said["examples"] == 7000
    assert now["aliases"]["champion"] == said["champion"]
    assert now["counts"]["row"] == 7000
    kinds = [one["kind"] for one in now["marks"]]
    assert kinds.count("promotion") == said["promotions"] > 0
    assert kinds.count("drift") == said["drifts"] > 0
    assert kinds.count("rejection") == said["rejections"]
    assert now["replay"]["rows"] == sum(now["replay"]["classes"].values()) == said["replay"]["rows"]
    assert now["replay"]["classes"].keys() == {"0", "1"}
    assert now["replay"]["oldest"] > now["replay"]["newest"] >= 0
    assert (now["position"], now["lag"]) == (now["end"], {"events": 0, "seconds": 0.0})


def test_marks_say_where_and_what(ran):
    promoted = next(one for one in ran.status()["marks"] if one["kind"] == "promotion")
    decision = next(one for one in ran.decisions() if one.action == "promote")
    assert promoted["at"] == decision.detail["examples"]
    assert promoted["version"] == decision.version
    assert promoted["text"] == decision.reason


def test_it_is_json_and_small(ran):
    text = msgspec.json.encode(ran.status())
    assert len(text) < 100_000
    assert json.loads(text)["metric"] == "accuracy"


def test_curves_are_the_metrics_over_time_thinned_to_their_bound(ran):
    for role, curve in ran.status()["curves"].items():
        whole = metrics.curve(ran.fold.monitor.metrics[role])
        assert len(whole["x"]) > POINTS >= len(curve["x"])
        assert {len(line) for line in curve.values()} == {len(curve["x"])}
        assert curve["x"][-1] == whole["x"][-1]
        assert sum(curve["count"]) == whole["count"].sum()
        mean = np.average(curve["accuracy"], weights=curve["count"])
        assert mean == pytest.approx(np.average(whole["accuracy"], weights=whole["weight"]), abs=1e-5)


def test_live_the_champion_is_the_one_that_learns_and_has_the_only_curve_of_it(tmp_path):
    with everlearn.open(spec(mode="live"), home=tmp_path / "home") as loop:
        loop.run(read(table(500), schema=loop.spec.schema))
        now = loop.status()
        assert now["curves"].keys() == {"champion", "last_label", "majority"}
        assert {one["role"]: one["learns"] for one in now["contestants"]}["champion"]


def test_the_gate_is_shown_as_it_judges(ran):
    asked = ran.status()["gate"]
    assert asked
    for one in asked:
        assert one["reference_role"] == "champion" or one["role"] == "champion"
        assert one["low"] <= one["difference"] <= one["high"] or one["examples"] == 0
        assert one["threshold"] > 0


def test_a_regression_is_measured_by_its_error(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=400)
    stream = read({"x": x, "y": 3 * x + 0.1 * draw.normal(size=400)}, label="y")
    with everlearn.open(
        {"schema": msgspec.to_builtins(stream.schema), "model": {"family": "linear"}}, home=tmp_path / "home"
    ) as loop:
        loop.run(stream)
        now = loop.status()
        assert now["metric"] == "mae"
        assert now["classes"] == []
        assert now["replay"]["classes"] == {}
        assert len(now["curves"]["champion"]["mae"]) > 0
        msgspec.json.encode(now)


def test_without_memory_and_detector_there_is_nothing_to_show_of_them(tmp_path):
    settings = spec(replay=ReplaySpec(kind="none"), drift=DriftSpec(detector="none"))
    with everlearn.open(settings, home=tmp_path / "home") as loop:
        loop.run(read(table(100), schema=settings.schema))
        now = loop.status()
        assert now["replay"]["rows"] == 0
        assert now["drift"]["state"] == "stable"


def test_drift_is_shown_for_a_grace_period(tmp_path):
    settings = spec(drift=DriftSpec(grace_period=200))
    with everlearn.open(settings, home=tmp_path / "home") as loop:
        states = []
        stream = read(table(3000), schema=settings.schema)
        (chunk,) = stream.chunks()
        for start in range(0, 3000, 50):
            from everlearn.model import cut

            for commit in loop.fold.examples(cut(chunk.examples, start, start + 50), "row"):
                loop._journal.commit(commit)
            states.append(loop.status()["drift"]["state"])
        assert states[0] == states[-1] == "stable"
        assert "drift" in states


def test_events_that_others_wrote_are_the_lag(tmp_path):
    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        answer = loop.predict({"a": 1.0, "b": 2.0, "c": "c1"})
        loop.log.append([Label(answer.id, 1), Example("e", {"a": 1.0}, 0)])
        now = loop.status()
        assert now["lag"]["events"] == 2
        assert 0 <= now["lag"]["seconds"] < 60
        assert now["staleness"]["seconds"] == now["lag"]["seconds"]
        assert now["counts"]["label"] == 1
        loop.catch_up()
        assert loop.status()["lag"]["events"] == 0


def test_what_is_stale_is_said_against_its_bound():
    assert stale(0.5, 2.0) == {"seconds": 0.5, "bound": 2.0, "broken": False}
    assert stale(2.5, 2.0)["broken"]
    assert stale(math.inf, 2.0) == {"seconds": None, "bound": 2.0, "broken": True}


def test_only_the_newest_marks_are_kept_and_each_is_read_once(tmp_path):
    from everlearn.records import Decision

    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        marks = Marks()
        for number in range(0, 3 * MARKS, 100):
            drifts = [Decision("drift", number + i, f"{number + i}", "drift") for i in range(100)]
            loop.log.append([*drifts, Decision("config", number, f"{number}", "user")])
            found = marks.follow(loop.log)
        assert [one["text"] for one in found] == [str(i) for i in range(2 * MARKS, 3 * MARKS)]
        assert marks.follow(loop.log) == found


# ---- for people --------------------------------------------------------------------------------------------------


def drawn(now, width=110) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(report.shown(now))
    return console.file.getvalue()


def test_the_drawing_says_what_matters(ran):
    text = drawn(ran.status())
    assert "label · gated · 7,000 labelled examples · 0 waiting for feedback" in text
    assert re.search(r"accuracy +0\.\d{4} +0\.\d{4} +0\.\d{4}", text)
    assert re.search(
        r"gate: \w+ \w{6} against \w+ \w{6}: [+-]0\.\d{4} after [\d,]+ examples, \d+% of the evidence for", text
    )
    assert re.search(r"[\d,]+: promotion \w{6}", text)
    late = ran.status() | {"lag": {"events": 1234, "seconds": 5.6}}
    assert "1,234 events behind (5.6 s)" in drawn(late)


def test_in_a_file_a_drawing_follows_another_only_now_and_then(ran):
    console = Console(file=io.StringIO(), width=100)
    watch = Watch(ran.status, console)
    first = console.file.getvalue()
    for rows in range(100):
        watch(rows, ran)
    assert console.file.getvalue() == first
    assert "\x1b" not in first
    assert repr(watch) == "<watching label: 7,000 labelled examples, 0 events behind>"


class Screen:
    """As much of a terminal as is needed: lines of text, and a cursor that is moved up."""

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self.row = 0

    def show(self, text: str) -> None:
        for part in re.findall(r"\x1b\[(\d*)([A-Za-z])|([^\x1b\n]+)|(\n)", text):
            number, letter, printed, newline = part
            if letter == "A":
                self.row = max(0, self.row - int(number or 1))
            elif printed:
                self.lines[self.row] = printed + self.lines[self.row][len(printed) :]
            elif newline:
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))

    @property
    def text(self) -> list[str]:
        return [line.rstrip() for line in self.lines]


def test_in_a_terminal_a_drawing_takes_the_place_of_the_one_before(tmp_path):
    console = Console(file=io.StringIO(), width=100, height=60, force_terminal=True, color_system=None)
    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        watch = Watch(loop.status, console)
        columns = table(4000)
        for start in range(0, 4000, 1000):
            part = {name: list(column)[: start + 1000] for name, column in columns.items()}
            loop.run(read(part, schema=loop.spec.schema))
            watch.draw()
        screen, expected = Screen(), Screen()
        screen.show(console.file.getvalue())
        expected.show(drawn(loop.status(), width=100))
        assert [line for line in screen.text if line] == [line for line in expected.text if line]


def test_a_drawing_never_reaches_beyond_the_screen(ran):
    console = Console(file=io.StringIO(), width=100, height=6, force_terminal=True, color_system=None)
    watch = Watch(ran.status, console)
    watch.draw()
    screen = Screen()
    screen.show(console.file.getvalue())
    assert len(screen.lines) <= 6


WATCHED = """
import sys
from pathlib import Path
import everlearn
from everlearn.stream import read
from tests.support.loops import spec, table
with everlearn.open(spec(), home=sys.argv[1]) as loop:
    loop.run(read(table(9000), schema=loop.spec.schema), progress=loop.watch())
    loop.watch(seconds=0.6)
    print("done")
"""


def test_a_run_can_be_watched_in_a_real_terminal(tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "home")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the terminal is gone with its last user
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait() == 0
    text = said.decode()
    assert "0 labelled examples" in text
    assert "9,000 labelled examples" in text
    assert re.search(r"\x1b\[\d+A", text)  # moved up, and drawn over
    assert "done" in text


def test_watching_for_a_while_folds_what_others_write(tmp_path):
    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        answer = loop.predict({name: 1.0 if name != "c" else "c1" for name in FIELDS})
        loop.log.append([Label(answer.id, 1)])
        loop.watch(seconds=0.05)
        assert loop.report()["examples"] == 1
