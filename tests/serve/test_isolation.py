"""Models that raise, or answer nonsense, while a loop folds: who goes, who goes back, and that nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.errors import ModelError
from everlearn.loop.loop import Loop
from everlearn.records import Arrays, Batch, Decision, Example, Floats, Label, Payload, Prediction, Singles
from everlearn.serve.isolation import FailureLog, IsolatedModel, ModelFailure
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, Spec
from everlearn.stream import read
from tests.support.kills import disturbed
from tests.support.loops import FIELDS, spec, table
from tests.support.models import Mean, examples, part

POISON = 77.0  # a value of the feature "a" that some families cannot bear
LINEAR = {"family": "linear"}
ROWS = 240


class Fragile(Mean):
    """`Mean`, until it breaks: `breaks` names the method, `how` what it does then, `when` the row or the value."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(dict(spec))

    def predict(self, batch: Batch) -> Singles:
        return self._broken("predict", batch, super().predict(batch))

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        said = np.zeros((len(y), 2), np.float32)
        for row, label in enumerate(y):
            one = part(batch, row)
            said[row : row + 1] = super().predict(one)
            if self.spec["how"] == "raise":  # with some rows of a call learned, and the others not
                self._broken("learn", one, said)
            self.arrays["count"] += 1
            self.arrays["ones"] += label
        return self._broken("learn", batch, said)

    def _broken(self, method: str, batch: Batch, said: Singles) -> Singles:
        word, _, at = str(self.spec["when"]).partition(" ")
        hit = self.arrays["count"] >= int(at) if word == "row" else bool((batch.dense[:, 0] == POISON).any())
        if method != self.spec["breaks"] or not hit:
            return said
        match self.spec["how"]:
            case "raise":
                raise ValueError(f"broken on purpose, at {int(self.arrays['count'])}")
            case "shape":
                return np.zeros((len(said), 7), np.float32)
            case "nan":
                return said * np.float32(np.nan)
            case _:
                return None  # type: ignore[return-value]


class Uncopied(Mean):
    """`Mean`, of which there can be no copy once it has learned 10 rows."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(dict(spec) | {"family": "tests.serve.test_isolation:Uncopied"})

    @property
    def arrays(self) -> Arrays:
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        if arrays["count"] >= 10:
            raise OSError("no copies")
        self._arrays = arrays


def fragile(breaks: str = "learn", when: str = "row 50", how: str = "raise") -> dict[str, Any]:
    return {"family": "tests.serve.test_isolation:Fragile", "breaks": breaks, "when": when, "how": how}


def quiet(**changes: Any) -> Spec:
    never = GateSpec(minimum=1_000_000, promote="snapshot")
    settings: dict[str, Any] = {"gate": never, "drift": DriftSpec(detector="none")}
    return spec(**settings | {"challengers": 3} | changes)


def rows(poison: int = 0) -> dict[str, Any]:
    """Rows of which those at `poison`, and each 60th after it, hold the value that some cannot bear."""
    columns = table(ROWS)
    if poison:
        columns["a"][poison::60] = POISON
    return columns


def written(loop: Loop, columns: dict[str, Any], start: int, stop: int, one: float = 0.5) -> None:
    """Put traffic into the log, as workers would: predictions, labels 7 rows later, now and then an example."""
    version, events = loop.ready().version, list[Payload]()
    for row in range(start, stop):
        held = {name: columns[name][row] for name in FIELDS}
        events.append(Prediction(str(row), held, 0, (1.0 - one, one), version))
        if row - 7 >= start:
            events.append(Label(str(row - 7), int(columns["label"][row - 7])))
        if row % 11 == 5:
            events.append(Example(f"e{row}", held, int(columns["label"][row])))
    loop.log.append(events, time=1000.0 + start)


def caught_up(loop: Loop, size: int) -> None:
    while loop.catch_up(size):
        pass


def state(loop: Loop) -> dict[str, Any]:
    arrays, header = loop.fold.state()
    return {"header": header} | {name: array.tobytes() for name, array in arrays.items()}


def story(loop: Loop) -> list[tuple[str, str, int, str]]:
    return [(one.action, one.by, one.at, one.reason) for one in loop.decisions()]


def faults(loop: Loop) -> list[Decision]:
    rolled = [one for one in loop.decisions() if one.action == "rollback" and one.by == "guard"]
    return [one for one in loop.decisions() if one.action == "reject" and one.by == "loop"] + rolled


def roles(loop: Loop) -> list[str]:
    return [loop.fold.roster.role_of(one) for one in loop.fold.roster.contestants]


# ---- a challenger fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["gated", "live"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (fragile(), "learn raised ValueError: broken on purpose, at 5"),
        (fragile(breaks="predict"), "predict raised ValueError: broken on purpose, at 5"),
        (fragile(breaks="predict", when="value"), "predict raised ValueError: broken on purpose"),
        (fragile(when="value", how="shape"), r"learn returned shape \(1, 7\), expected \(1, 2\)"),
        (fragile(when="value", how="nan"), "learn returned a number that is not finite"),
        (fragile(breaks="predict", how="none"), "predict returned a NoneType, expected an array"),
        ({"family": "tests.serve.test_isolation:Uncopied"}, "being copied raised OSError: no copies"),
    ],
)
def test_a_challenger_that_fails_goes_at_that_event_however_the_log_is_cut(
    tmp_path: Path, mode: str, how: dict[str, Any], reason: str
):
    if mode == "live" and "Uncopied" in how["family"]:
        pytest.skip("live, nobody nominates a copy")
    told: list[Any] = []
    for size in (1, 3, 40, 5000):
        with Loop(quiet(mode=mode), tmp_path / f"{size}") as loop:
            written(loop, rows(), 0, 30)
            caught_up(loop, size)
            born = loop.challenge(how, reason="to see it fail", warm=False)
            written(loop, rows(130), 30, ROWS)
            end = loop.log.end()
            caught_up(loop, size)
            (gone,) = faults(loop)
            assert (gone.action, gone.version) == ("reject", born.id)
            assert re.search(reason, gone.reason)
            assert "fresh" not in roles(loop)
            assert born.id not in {one.version for one in loop.fold.roster.contestants}
            assert loop.position >= end
            told.append((without_orders(story(loop)), without_times(state(loop))))
            before = state(loop)
        with Loop(quiet(mode=mode), tmp_path / f"{size}") as loop:
            assert state(loop) == before
            assert len(faults(loop)) == 1
    assert all(one == told[0] for one in told[1:])


def without_orders(told: list[tuple[str, str, int, str]]) -> list[tuple[str, str, int, str]]:
    return [one for one in told if one[0] != "order"]


def without_times(one: dict[str, Any]) -> dict[str, Any]:
    """Forget when the order came, which was now; the rest of the log has times of its own."""
    one["header"]["now"] = 0
    return one | {"waiting/time": b""}


def test_the_others_are_as_if_it_had_never_been_there(tmp_path: Path):
    columns, settings = rows(130), quiet()
    with Loop(settings, tmp_path / "home") as loop, Loop(settings, tmp_path / "alone") as alone:
        for one in (loop, alone):
            written(one, columns, 0, 30)
            caught_up(one, 5000)
        loop.challenge(fragile(when="value"), warm=False)
        for one in (loop, alone):
            written(one, columns, 30, ROWS)
            caught_up(one, 5000)
        assert len(faults(loop)) == 1
        assert loop.report()["metrics"] == alone.report()["metrics"]
        assert {name: array.tobytes() for name, array in loop.fold.roster.challenger.model.arrays.items()} == {
            name: array.tobytes() for name, array in alone.fold.roster.challenger.model.arrays.items()
        }


def test_a_version_in_shadow_goes_and_so_does_a_warmed_model_that_never_joined(tmp_path: Path):
    with Loop(quiet(), tmp_path / "home") as loop:
        written(loop, rows(), 0, 100)
        caught_up(loop, 5000)
        with pytest.raises(Exception, match="learn raised ValueError: broken on purpose, at 50"):
            loop.challenge(fragile())  # on what is remembered
        assert loop.decisions()[-1].action == "reject"
        born = loop.challenge(fragile(breaks="predict", when="value"), warm=False)
        loop.withdraw(born.id)
        loop.challenge(born.id)
        assert "shadow" in roles(loop)
        written(loop, rows(130), 100, ROWS)
        caught_up(loop, 5000)
        assert "shadow" not in roles(loop)
        assert faults(loop)[-1].detail["role"] == "shadow"


def test_when_the_first_challenger_goes_a_fresh_one_takes_its_place(tmp_path: Path):
    settings = quiet(model=fragile(breaks="learn", when="value"))
    with Loop(settings, tmp_path / "home") as loop:
        written(loop, rows(), 0, 50)
        caught_up(loop, 5000)
        born = loop.challenge(LINEAR)
        written(loop, rows(130), 50, ROWS)
        caught_up(loop, 5000)
        assert loop.fold.roster.challenger.version == born.id
        assert roles(loop).count("fresh") == 0
        assert [one.detail["role"] for one in faults(loop)] == ["challenger"]
    with Loop(settings, tmp_path / "home") as loop:
        assert loop.fold.roster.challenger.version == born.id


@pytest.mark.parametrize("reaction", ["challenger", "reset"])
def test_where_nobody_learns_any_more_the_champion_serves_and_drift_starts_a_new_one(tmp_path: Path, reaction: Any):
    drift, columns = DriftSpec(detector="adwin", reaction=reaction), table(2000)
    columns["label"] = (np.arange(2000) >= 700).astype(int)
    with Loop(quiet(model=fragile(), drift=drift), tmp_path / "home") as loop:
        written(loop, columns, 0, 2000, one=0.1)
        caught_up(loop, 5000)
        assert faults(loop)[0].detail["role"] == "challenger"
        assert loop.fold.roster.challenger is loop.fold.roster.champion
        assert loop.predict({"a": 1.0, "b": 1.0, "c": "c1"}).proba == (0.5, 0.5)
        drifted = next(one for one in loop.decisions() if one.action == "drift")
        told = [one for one in loop.decisions() if one.at == drifted.at][1]
        if reaction == "reset":
            assert told.reason == "fresh challenger after drift, untrained"
        else:  # the row that breaks it is older than the change, and not among those that it is warmed on
            assert (told.action, told.by) == ("challenger", "drift")
            assert told.reason.endswith("remembered rows since the estimated change")


# ---- the champion fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "times"), [(fragile(), 5), (fragile(when="value"), 2), (fragile(how="nan"), 5)])
def test_a_live_champion_that_fails_goes_back_however_the_log_is_cut(tmp_path: Path, how: dict[str, Any], times: int):
    told: list[Any] = []
    settings = quiet(mode="live", model=how)
    for size in (1, 3, 40, 5000):
        with Loop(settings, tmp_path / f"{size}") as loop:
            written(loop, rows(130), 0, ROWS)
            caught_up(loop, size)
            back = faults(loop)
            assert {(one.action, one.by, one.alias) for one in back} == {("rollback", "guard", "champion")}
            assert len(back) == times
            assert len({one.at for one in back}) == times
            champion = loop.fold.roster.champion
            assert champion.learns
            assert 0 < champion.model.arrays["count"] < 130
            told.append((story(loop), without_times(state(loop))))
            before = state(loop)
        with Loop(settings, tmp_path / f"{size}") as loop:
            assert state(loop) == before
    assert all(one == told[0] for one in told[1:])


def test_a_served_champion_that_fails_goes_back_to_the_previous_one(tmp_path: Path):
    with Loop(quiet(model=LINEAR), tmp_path / "home") as loop:
        written(loop, rows(), 0, 50)
        caught_up(loop, 5000)
        first = loop.report()["champion"]
        born = loop.challenge(fragile(breaks="predict", when="value"), warm=False)
        loop.promote(born.id)
        loop.withdraw(born.id)
        written(loop, rows(130), 50, ROWS)
        caught_up(loop, 5000)
        (back,) = faults(loop)
        assert (back.action, back.version, back.previous) == ("rollback", first, born.id)
        assert loop.report()["champion"] == loop.ready().version == first


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_where_there_is_nothing_to_go_back_to_the_error_is_clear(tmp_path: Path, mode: str):
    settings = quiet(mode=mode, model=fragile(breaks="predict", when="value"))
    with Loop(settings, tmp_path / "home") as loop:
        written(loop, rows(), 0, 50)
        caught_up(loop, 5000)
        written(loop, rows(130), 50, ROWS)
        with pytest.raises(ModelError, match="there is no good version to go back to: .*predict raised ValueError"):
            caught_up(loop, 5000)
    with pytest.raises(ModelError, match="there is no good version to go back to"), Loop(settings, tmp_path / "home"):
        pass


# ---- rows of files, and a process that is killed -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["gated", "live"])
@pytest.mark.parametrize("how", [fragile(), fragile(when="value"), fragile(when="value", how="shape")])
def test_rows_of_a_file_meet_the_same(tmp_path: Path, mode: str, how: dict[str, Any]):
    columns, told = table(900), []
    columns["a"][333::200] = POISON
    settings = quiet(mode=mode, checkpoint=100)
    for size in (900, 250):
        with Loop(settings, tmp_path / f"{size}") as loop:
            loop.ready()
            born = loop.challenge(how, warm=False)
            for stop in range(size, 901, size):
                path = tmp_path / "rows.csv"
                head = [",".join(columns)]
                lines = [",".join(str(values[row]) for values in columns.values()) for row in range(stop)]
                path.write_text("\n".join(head + lines) + "\n")
                loop.run(read(path, schema=settings.schema))
            (gone,) = faults(loop)
            assert gone.version == born.id
            told.append((gone.at, gone.reason))
    assert told[0] == told[1]
    assert told[0][0] == (334 if how["when"] == "value" else 50)


def challenged_work(settings: Spec, how: dict[str, Any]) -> Callable[[Path], None]:
    def work(home: Path) -> None:
        columns = table(1500)
        columns["a"][333::200] = POISON
        with Loop(settings, home) as loop:
            loop.ready()
            if len(loop.versions()) == 1:
                loop.challenge(how, warm=False)
            loop.run(read(columns, schema=settings.schema))

    return work


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_killed_at_any_moment_it_is_as_if_nothing_had_happened(tmp_path: Path, mode: str):
    settings = quiet(mode=mode, model=fragile(when="value"), checkpoint=100, feedback=FeedbackSpec())
    work = challenged_work(settings, fragile(breaks="predict"))
    work(tmp_path / "undisturbed")

    def content(home: Path) -> Any:
        with Loop(settings, home) as loop:
            return without_times(state(loop)), without_orders(story(loop)), [one.id for one in loop.versions()]

    expected = content(tmp_path / "undisturbed")
    assert sum(by == "guard" for _, by, _, _ in expected[1]) == (6 if mode == "live" else 0)
    for home in disturbed(work, tmp_path, 6, 0.5):
        assert content(home) == expected


# ---- the parts -----------------------------------------------------------------------------------------------------


def test_a_lack_of_memory_is_nobodys_fault():
    one = Mean()

    def starved(_: Batch) -> Singles:
        raise MemoryError

    one.predict = starved  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        IsolatedModel(one).predict(examples(3).batch)


def test_a_reason_is_short():
    assert len(str(ModelFailure(1, "x" * 10_000))) < 600


def test_faults_of_a_group_are_looked_for_one_by_one_until_a_checkpoint():
    known, fault = FailureLog(), ModelFailure(3, "it broke")
    known.note(fault, "log", 10, 20)
    assert known.within("log", 20, 30)
    assert not known.within("log", 21, 30)
    assert not known.within("row", 10, 20)
    known.note(fault, "log", 8, 12)
    assert known.within("log", 8, 8)
    known.note(fault, "log", 12, 12)
    assert known.at("log", 12) == [fault]
    known.clear()
    assert known.at("log", 12) == []
    assert not known.within("log", 8, 20)
