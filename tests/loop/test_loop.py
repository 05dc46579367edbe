"""The loop as a user holds it: predict, feedback, run, versions, promote, roll back, resume."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pytest

import everlearn
from everlearn.errors import ConfigError, IdTaken, InputError, LogError, UnknownId
from everlearn.loop.home import Home
from everlearn.loop.loop import Loop
from everlearn.model import cut
from everlearn.records import Checkpoint, Example, Examples, Loss, Prediction
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, LogSpec, ReplaySpec, Schema, Spec
from everlearn.stream import read
from everlearn.version.blobs import Blobs
from tests.support.loops import bytes_of, record, spec, table

SNAPSHOTS = GateSpec(minimum=100, promote="snapshot")


def test_an_answer_says_what_how_sure_and_by_whom(tmp_path):
    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        answer = loop.predict({"a": 1.0, "b": 2.0, "c": "c1"})
        assert answer.value in (0, 1)
        assert sum(answer.proba) == pytest.approx(1.0)
        assert answer.version == loop.versions()[0].id
        assert loop.aliases()[answer.version] == ["challenger", "champion"]


def test_feedback_is_learned_and_the_champion_stays(tmp_path):
    columns = table(60)
    with everlearn.open(spec(gate=SNAPSHOTS), home=tmp_path / "home") as loop:
        for row in range(50):
            answer = loop.predict(record(columns, row))
            assert answer.proba == (0.5, 0.5)  # the untrained champion, until the gate says otherwise
            loop.feedback(answer.id, label=int(columns["label"][row]))
        assert loop.report()["examples"] == 50
        challenger, champion = loop.fold.roster.challenger.model, loop.fold.roster.champion.model
        row = loop.fold.encoder.record(record(columns, 55))
        assert challenger.predict(row).tolist() != champion.predict(row).tolist()


def test_live_every_answer_comes_from_the_newest_weights(tmp_path):
    columns = table(60)
    with everlearn.open(spec(mode="live"), home=tmp_path / "home") as loop:
        for row in range(50):
            answer = loop.predict(record(columns, row))
            loop.feedback(answer.id, label=int(columns["label"][row]))
        assert loop.predict(record(columns, 55)).proba != (0.5, 0.5)


def test_unknown_unusable_and_repeated_feedback(tmp_path):
    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        answer = loop.predict({"a": 1.0, "b": 2.0, "c": "c1"}, id="tx-1")
        with pytest.raises(UnknownId, match="no prediction with id 'tx-2'"):
            loop.feedback("tx-2", label=1)
        with pytest.raises(InputError, match="'maybe'"):
            loop.feedback("tx-1", label="maybe")
        with pytest.raises(InputError, match="exactly one of label, reward and chosen; got 0"):
            loop.feedback("tx-1")
        with pytest.raises(InputError, match="weight: got nan"):
            loop.feedback("tx-1", label=1, weight=float("nan"))
        assert loop.log.count("label") == 0
        loop.feedback(answer.id, label=1)
        before = bytes_of(loop)
        loop.feedback(answer.id, label=1)
        assert loop.log.count("label") == 1
        assert bytes_of(loop) == before


@pytest.mark.parametrize(("policy", "learned"), [("learn", True), ("ignore", False)])
def test_a_correction_is_kept_and_learned_if_the_policy_says_so(tmp_path, policy, learned):
    settings = spec(feedback=FeedbackSpec(correction=policy))
    with everlearn.open(settings, home=tmp_path / "home") as loop:
        answer = loop.predict({"a": 1.0, "b": 2.0, "c": "c1"})
        loop.feedback(answer.id, label=1)
        before = bytes_of(loop)
        loop.feedback(answer.id, label=0)
        assert loop.log.count("label") == 2
        assert loop.report()["examples"] == 1  # users got one answer: it is scored once
        assert (bytes_of(loop) != before) == learned


def test_an_unanswered_prediction_takes_the_default_label_after_the_window(tmp_path):
    settings = spec(feedback=FeedbackSpec(window=10.0, default=0))
    with everlearn.open(settings, home=tmp_path / "home") as loop:
        loop.predict({"a": 1.0, "b": 2.0, "c": "c1"}, id="old")
        first = loop.log.find("prediction:old")
        assert first is not None
        assert isinstance(first.payload, Prediction)
        newer = Prediction("new", first.payload.features, 0, (0.5, 0.5), first.payload.version)
        loop.log.append([newer], time=first.time + 11)
        loop.catch_up()
        assert loop.report()["examples"] == 1
        assert loop.report()["waiting"] == 1


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_rows_at_once_and_rows_in_pieces_leave_the_same_bytes(tmp_path, size):
    settings, columns = spec(), table(1000)
    with Loop(settings, tmp_path / "whole") as whole, Loop(settings, tmp_path / "pieces") as pieces:
        whole.run(read(columns, schema=settings.schema))
        (chunk,) = read(columns, schema=settings.schema).chunks()
        examples = chunk.examples
        for start in range(0, 1000, size):
            piece = cut(examples, start, min(1000, start + size))
            for commit in pieces.fold.examples(piece, "row"):
                pieces._journal.commit(commit)
        assert bytes_of(pieces) == bytes_of(whole)
        assert pieces.versions() == whole.versions()


def test_a_file_as_the_log_and_its_rows_appended_learn_the_same(tmp_path):
    columns = table(2000)
    reports = []
    for kept in ("auto", "always"):
        settings = spec(log=LogSpec(rows=kept))
        with Loop(settings, tmp_path / kept) as loop:
            reports.append(loop.run(read(columns, schema=settings.schema)))
    one, other = reports
    assert one["metrics"] == other["metrics"]
    assert one["promotions"] == other["promotions"] > 0
    assert one["events"] == other["events"] == 2000


def test_the_challenger_beats_the_frozen_start_and_is_promoted(tmp_path):
    settings = spec(warm_start=0.2)
    with Loop(settings, tmp_path / "home") as loop:
        report = loop.run(read(table(6000), schema=settings.schema))
        champion, frozen = report["metrics"]["champion"], report["metrics"]["frozen"]
        assert champion["accuracy"] > frozen["accuracy"] + 0.05
        assert report["examples"] == 4800
        assert report["promotions"] >= 1
        assert report["drifts"] >= 1
        first, *later = loop.versions()
        assert first.reason == "trained offline on 1200 rows"
        assert all(one.parents or "fresh challenger" in one.reason for one in later)


def test_a_warm_start_is_one_pass_over_its_rows(tmp_path):
    columns = table(1000)
    settings = spec(warm_start=500.0)
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(columns, schema=settings.schema))
        first = loop.home.versions.load(loop.versions()[0].id)
        twin = loop.fold.transitions.make()
        (chunk,) = read(columns, schema=settings.schema).chunks()
        warm: Examples = cut(chunk.examples, 0, 500)
        twin.learn(warm.batch, warm.y, warm.weight)
        assert {name: array.tobytes() for name, array in first.items()} == {
            name: array.tobytes() for name, array in twin.arrays.items()
        }


def test_a_share_of_an_unknown_length_is_refused(tmp_path, monkeypatch):
    settings = spec(warm_start=0.5)
    stream = read(table(100), schema=settings.schema)
    object.__setattr__(stream, "rows", None)
    with Loop(settings, tmp_path / "home") as loop, pytest.raises(ConfigError, match="Give a number of rows"):
        loop.run(stream)


def test_running_again_takes_only_what_is_new(tmp_path):
    settings, columns = spec(), table(900)
    half = {name: values[:500] for name, values in columns.items()}
    path = tmp_path / "rows.csv"

    def write(values: dict[str, Any]) -> None:
        lines = [",".join(values), *(",".join(map(str, row)) for row in zip(*values.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")

    write(half)
    with Loop(settings, tmp_path / "home") as loop:
        assert loop.run(read(path, schema=settings.schema))["events"] == 500
        assert loop.run(read(path, schema=settings.schema))["events"] == 500
    write(columns)
    with Loop(settings, tmp_path / "home") as loop, Loop(settings, tmp_path / "at once") as once:
        assert loop.run(read(path, schema=settings.schema))["events"] == 900
        once.run(read(path, schema=settings.schema))
        assert bytes_of(loop) == bytes_of(once)


def test_promote_and_roll_back_by_hand_are_decisions_in_the_log(tmp_path):
    settings = spec(gate=SNAPSHOTS)
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(table(3000), schema=settings.schema))
        now, first = loop.report()["champion"], loop.versions()[0].id
        loop.promote(first[:6], reason="a test")
        assert loop.report()["champion"] == first
        assert loop.decisions()[-1].reason == "a test"
        assert loop.predict({"a": 1.0, "b": 1.0, "c": "c1"}).version == first
        loop.rollback()
        assert loop.report()["champion"] == now
        state = bytes_of(loop)
    with Loop(settings, tmp_path / "home") as again:
        assert again.report()["champion"] == now
        assert bytes_of(again) == state


def test_without_a_promotion_there_is_nothing_to_roll_back_to(tmp_path):
    with Loop(spec(), tmp_path / "home") as loop, pytest.raises(ConfigError, match="there is no champion before"):
        loop.rollback()


def test_a_lost_checkpoint_costs_time_and_nothing_else(tmp_path):
    settings, columns = spec(), table(2000)
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(columns, schema=settings.schema))
        expected = bytes_of(loop)
        last = loop.log.last("checkpoint")
        assert last is not None
        assert isinstance(last.payload, Checkpoint)
    (damaged,) = (tmp_path / "home" / "blobs").glob(f"{last.payload.blob}*")
    damaged.write_bytes(b"")
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(columns, schema=settings.schema))
        assert bytes_of(loop) == expected


def test_a_missing_number_may_be_none_nan_or_absent(tmp_path):
    with Loop(spec(), tmp_path / "home") as loop:
        answers = [loop.predict(one) for one in ({"a": None, "b": 1.0}, {"a": float("nan"), "b": 1.0}, {"b": 1.0})]
        assert len({one.proba for one in answers}) == 1


def test_an_interrupted_run_is_neither_used_nor_saved_half_way(tmp_path, monkeypatch):
    settings, columns = spec(), table(3000)
    with Loop(settings, tmp_path / "undisturbed") as loop:
        loop.run(read(columns, schema=settings.schema))
        expected = bytes_of(loop)

    with Loop(settings, tmp_path / "home") as loop:
        remember, calls = loop.fold.monitor.remember, iter(range(60))

        def interrupted(examples: Examples) -> None:
            if next(calls) == 50:  # a thousand rows have been learned, this piece has not been counted
                raise KeyboardInterrupt
            remember(examples)

        monkeypatch.setattr(loop.fold.monitor, "remember", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.run(read(columns, schema=settings.schema))
        with pytest.raises(LogError, match="open it again"):
            loop.learn(record(columns, 0), 1)
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(columns, schema=settings.schema))
        assert bytes_of(loop) == expected


@pytest.mark.parametrize("format", [1, 2, 4])
def test_the_state_of_the_release_before_is_read_and_that_of_the_next_refused(tmp_path, format):
    columns = table(300)
    with Loop(spec(), tmp_path / "home") as loop:
        loop.run(read(columns, schema=loop.spec.schema))
        loop.predict(record(columns, 0), id="waits")
        expected = bytes_of(loop)
    with closing(Home(tmp_path / "home", LogSpec())) as home:
        last = home.last()
        assert last is not None
        at, arrays, header = last
        for name in [name for name in arrays if name.startswith(("early/", "lessons/", "learner/limits/"))]:
            del arrays[name]
        for one in header["fold"]["roster"]["contestants"]:
            del one["learned"]
        del header["fold"]["unusable"]
        blob = Blobs(tmp_path / "home" / "blobs").put(arrays, header | {"format": format})
        home.log.append([Checkpoint(at, blob)])
    if format < 4:
        with Loop(spec(), tmp_path / "home") as loop:
            assert bytes_of(loop) == expected
            loop.feedback("waits", label=1)
    else:
        with pytest.raises(LogError, match=r"newer release: state format: got 4; expected at most 3"):
            Loop(spec(), tmp_path / "home")


def test_new_gate_settings_begin_with_new_evidence(tmp_path):
    with Loop(spec(gate=GateSpec(promote="snapshot", minimum=10_000)), tmp_path / "home") as loop:
        loop.run(read(table(500), schema=loop.spec.schema))
    guards = {"recall:0": 0.1, "recall:1": 0.1}
    with Loop(spec(gate=GateSpec(promote="snapshot", minimum=10_000, guards=guards)), tmp_path / "home") as loop:
        loop.run(read(table(1000), schema=loop.spec.schema))
        (trial,) = [one.trial for one in loop.fold.roster.contestants if one.trial is not None]
        assert trial.tested <= 1000
        assert sum(one.action == "config" for one in loop.decisions()) == 1
    with Loop(spec(gate=GateSpec(promote="snapshot", minimum=10_000, guards=guards)), tmp_path / "home") as loop:
        assert sum(one.action == "config" for one in loop.decisions()) == 1


def test_a_challenger_is_not_scored_on_what_was_predicted_before_it_was_born(tmp_path):
    columns = table(300)
    with everlearn.open(spec(mode="live"), home=tmp_path / "home") as loop:
        for row in range(200):
            loop.predict(record(columns, row), id=str(row))
        fresh = loop.fold.roster.challenge(loop.versions()[0].id, loop.fold.transitions.make())
        for row in range(200):
            loop.feedback(str(row), label=int(columns["label"][row]))
        assert loop.fold.monitor.scored == 200  # which scores the rows that wait
        assert fresh.trial is None
        answer = loop.predict(record(columns, 250))
        loop.feedback(answer.id, label=1)
        assert loop.fold.monitor.scored == 201
        assert fresh.trial is not None
        assert fresh.trial.tested == 1


def test_reset_leaves_what_serves_alone(tmp_path):
    columns = table(4000)
    for mode in ("gated", "live"):
        settings = spec(mode=mode, drift=DriftSpec(reaction="reset", grace_period=200), warm_start=200.0)
        with Loop(settings, tmp_path / mode) as loop:
            report = loop.run(read(columns, schema=settings.schema))
            assert report["drifts"] >= 1
            frozen, champion = report["metrics"]["frozen"], report["metrics"]["champion"]
            assert champion["brier"] <= frozen["brier"] + 0.02


def test_without_replay_a_fresh_challenger_starts_untrained(tmp_path):
    drift = DriftSpec(grace_period=200)
    settings = spec(replay=ReplaySpec(kind="none"), drift=drift, warm_start=200.0, gate=SNAPSHOTS)
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(table(4000), schema=settings.schema))
        assert any(one.reason.startswith("fresh challenger after drift, untrained") for one in loop.versions())


@pytest.mark.parametrize("kind", ["window", "reservoir", "balanced"])
def test_a_challenger_after_drift_is_warmed_only_on_rows_since_the_change(tmp_path, kind):
    """The rule turns round at row 2000; the labels of remembered rows tell which rule each row was made by."""
    draw, n, turned = np.random.default_rng(4), 2600, 2000
    a = draw.normal(size=n)
    columns = {
        "a": a,
        "b": draw.normal(size=n),
        "c": ["c"] * n,
        "label": ((a > 0) ^ (np.arange(n) >= turned)).astype(int),
    }
    settings = spec(mode="live", replay=ReplaySpec(kind=kind, bytes=20_000, width=4))
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(columns, schema=loop.spec.schema))
        decisions = loop.decisions()
        started = next(one for one in decisions if one.action == "challenger")
        words = started.reason.split()
        assert started.reason.endswith("remembered rows since the estimated change")
        warmed = int(words[words.index("remembered") - 1])
        reported = int(started.detail["examples"])
    with Loop(settings, tmp_path / "again") as loop:  # what was remembered then
        loop.run(read({name: column[:reported] for name, column in columns.items()}, schema=loop.spec.schema))
        position = loop.fold.monitor.remembered().position
    assert turned < reported < turned + 300
    assert 0 < warmed <= (position > turned - 60).sum() < len(position)
    assert warmed >= (position > turned + 60).sum()


def test_drift_is_noticed_where_no_label_ever_comes(tmp_path):
    drift = DriftSpec(detector="kswin", watch="inputs", reaction="note", grace_period=200)
    draw = np.random.default_rng(0)
    with everlearn.open(spec(drift=drift), home=tmp_path / "home") as loop:
        for row in range(3000):
            loop.predict({"a": draw.normal() + 5.0 * (row > 1500), "b": 0.0, "c": "c1"})
        assert [one.action for one in loop.decisions()].count("drift") >= 1


def test_predictions_that_do_not_fit_any_more_take_the_default(tmp_path):
    settings = spec(feedback=FeedbackSpec(window=1e9, default=0, bytes=20_000))
    with everlearn.open(settings, home=tmp_path / "home") as loop:
        for row in range(300):
            loop.predict({"a": float(row), "b": 0.0, "c": "c1"})
        report = loop.report()
        assert report["evicted"] > 0
        assert report["evicted"] == report["examples"] == 300 - report["waiting"]


def test_settings_that_cannot_work_are_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"feedback\.default: .*'maybe'"):
        Loop(spec(feedback=FeedbackSpec(window=1.0, default="maybe")), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"gate\.loss: got 'squared' for a binary task"):
        Loop(spec(gate=GateSpec(loss="squared")), tmp_path / "b")


def test_asking_again_with_the_same_id_gets_the_answer_that_was_given(tmp_path):
    columns = table(60)
    with everlearn.open(spec(mode="live"), home=tmp_path / "home") as loop:
        first = loop.predict(record(columns, 0), id="tx-1")
        for row in range(1, 50):
            loop.learn(record(columns, row), int(columns["label"][row]))
        assert loop.predict(record(columns, 0), id="tx-1") == first
        with pytest.raises(IdTaken, match="'tx-1' names another record"):
            loop.predict(record(columns, 1), id="tx-1")


@pytest.mark.parametrize("value", [7, 7.0, "7", np.int64(7)])
def test_a_person_has_one_spelling_in_the_log(tmp_path, value):
    with everlearn.open(spec(subject="user"), home=tmp_path / "home") as loop:
        loop.predict({"a": 1.0, "user": value}, id="p")
        loop.learn({"a": 1.0, "user": value}, 1)
        rows = [event.payload for event in loop.log.read() if isinstance(event.payload, Prediction | Example)]
        assert [(row.subject, row.features) for row in rows] == [("7", {"a": 1.0})] * 2


def test_an_id_names_one_example(tmp_path):
    with everlearn.open(spec(), home=tmp_path / "home") as loop:
        loop.learn({"a": 1.0}, 1, id="e")
        loop.learn({"a": 1.0}, 1, id="e")
        with pytest.raises(IdTaken, match="'e' names another example"):
            loop.learn({"a": 1.0}, 0, id="e")
        assert loop.report()["examples"] == 1


def test_rolling_back_twice_and_promoting_the_champion_keep_the_way_back(tmp_path):
    settings = spec(gate=SNAPSHOTS)
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(read(table(3000), schema=settings.schema))
        now = loop.report()["champion"]
        with pytest.raises(InputError, match="serves already"):
            loop.promote("champion")
        back = loop.rollback().id
        assert back != now
        assert loop.promote(now).id == now
        assert loop.rollback().id == back


def test_rows_and_the_events_that_follow_them_keep_their_order(tmp_path):
    settings, columns = spec(), table(9000)

    def stopped(rows: int, loop: Loop) -> None:
        raise RuntimeError(f"stopped after {rows} rows")

    with Loop(settings, tmp_path / "home") as loop:
        with pytest.raises(RuntimeError, match="stopped after 8192 rows"):
            loop.run(read(columns, schema=settings.schema), stopped)
        for row in range(30):
            answer = loop.predict(record(columns, row))
            loop.feedback(answer.id, label=int(columns["label"][row]))
        expected = bytes_of(loop)
        shutil.copytree(tmp_path / "home", tmp_path / "killed")  # what a kill at this moment leaves behind
    with Loop(settings, tmp_path / "killed") as loop:
        assert bytes_of(loop) == expected


def test_tables_with_the_same_first_row_are_different_sources(tmp_path):
    settings = spec()
    with Loop(settings, tmp_path / "home") as loop:
        for seed in range(3):
            columns = table(100)
            columns["b"][1:] += seed
            loop.run(read(columns, schema=settings.schema))
        assert loop.report()["events"] == 300


def test_a_home_is_for_one_process_at_a_time(tmp_path):
    with Loop(spec(), tmp_path / "home"), pytest.raises(LogError, match="open in another process"):
        Loop(spec(), tmp_path / "home")


def test_changed_settings_are_written_down_and_unfit_ones_refused(tmp_path):
    with Loop(spec(), tmp_path / "home") as loop:
        loop.run(read(table(500), schema=loop.spec.schema))
    with Loop(spec(gate=GateSpec(alpha=0.01)), tmp_path / "home") as loop:
        assert loop.decisions()[-1].reason == "settings changed: gate"
    with pytest.raises(ConfigError, match=r"seed was .* is now .*another home"):
        Loop(spec(seed=9), tmp_path / "home")


def test_refreshed_good_versions_of_one_piece_of_a_file_share_a_checkpoint(tmp_path):
    """And a loop that is killed after some of them decides the rest again."""
    turn, draw = np.arange(18_000) / 600, np.random.default_rng(3)
    a, b = draw.normal(size=(2, 18_000))
    columns = {"a": a, "b": b, "c": ["c0"] * 18_000, "label": (a * np.cos(turn) + b * np.sin(turn) > 0).astype(int)}
    rows = read(columns, label="label")
    settings = spec(
        mode="live", tick=10, checkpoint=20_000, gate=GateSpec(minimum=50), drift=DriftSpec(detector="none")
    )

    def copied(taken: int, loop: Loop) -> None:
        if taken < 9000:
            shutil.copytree(tmp_path / "home", tmp_path / "killed")

    with Loop(settings, tmp_path / "home") as loop:
        loop.run(rows, progress=copied)
        refreshed = [one for one in loop.decisions() if one.action == "promote" and one.by == "gate"]
        assert loop.home.saves < len(refreshed)
        assert [one.at for one in refreshed] == sorted({one.at for one in refreshed})
        arrays = loop.home.versions.load(refreshed[-1].version)
        assert all((arrays[name] == array).all() for name, array in loop.fold.roster.good.model.arrays.items())
        whole = bytes_of(loop), [one.id for one in loop.versions()]
    with Loop(settings, tmp_path / "killed") as loop:
        assert 0 < len(loop.versions()) < len(whole[1])
        loop.run(rows)
        assert (bytes_of(loop), [one.id for one in loop.versions()]) == whole


def test_what_a_promotion_must_not_cost(tmp_path):
    guarded = GateSpec(minimum=100, guards={"recall:1": 0.05})
    settings = spec(gate=guarded)
    with Loop(settings, tmp_path / "home") as loop:
        report = loop.run(read(table(3000), schema=settings.schema))
        assert report["promotions"] >= 1
    with pytest.raises(ConfigError, match="expected 'recall:CLASS'"):
        Loop(spec(gate=GateSpec(guards={"recall:7": 0.1})), tmp_path / "other")


@pytest.mark.parametrize("reaction", ["note", "reset", "rate", "challenger"])
@pytest.mark.parametrize("watch", ["loss", "proba", "inputs"])
def test_every_reaction_to_drift_in_every_signal(tmp_path, watch, reaction):
    columns = table(4000)
    columns["a"] = columns["a"] + np.where(np.arange(4000) > 2000, 4.0, 0.0)  # so that inputs drift, too
    settings = spec(drift=DriftSpec(watch=watch, reaction=reaction, grace_period=200), warm_start=200.0)
    with Loop(settings, tmp_path / "home") as loop:
        report = loop.run(read(columns, schema=settings.schema))
        assert report["drifts"] >= 1
        fresh = [one for one in loop.decisions() if one.action == "challenger"]
        assert bool(fresh) == (reaction == "challenger")


def test_a_regression_learns_from_labels_and_rewards(tmp_path):
    schema = Schema(label="y", task="regression", fields={"x": "numeric"})
    draw = np.random.default_rng(0)
    with everlearn.open(
        Spec(schema=schema, model={"family": "linear"}, mode="live", replay=ReplaySpec(kind="none")), tmp_path / "home"
    ) as loop:
        for row, x in enumerate(draw.normal(size=300)):
            answer = loop.predict({"x": x})
            if row % 2:
                loop.feedback(answer.id, label=3 * x + 1)
            else:
                loop.feedback(answer.id, reward=3 * x + 1)
        assert loop.report()["metrics"]["champion"]["mae"] < 1.0
        assert loop.predict({"x": 1.0}).value == pytest.approx(4.0, abs=0.5)


def test_numbers_from_numpy_are_taken_and_odd_objects_refused(tmp_path):
    with Loop(spec(), tmp_path / "home") as loop:
        answer = loop.predict({"a": np.float32(1.5), "b": np.int64(2), "c": np.str_("c1")})
        loop.feedback(answer.id, label=np.int64(1))
        with pytest.raises(InputError, match="field 'a': got <object"):
            loop.predict({"a": object()})
        with pytest.raises(InputError, match="expected a record"):
            loop.predict([1, 2, 3])  # type: ignore[arg-type]


def test_a_model_that_cannot_be_built_is_refused_when_its_loop_is_opened(tmp_path):
    schema = {"label": "y", "task": "binary", "classes": (0, 1), "fields": {"x": "numeric"}}
    spec = {"schema": schema, "model": {"family": "nowhere:make_net"}}
    with pytest.raises(ConfigError, match="no module named 'nowhere' can be imported"):
        everlearn.open(spec, home=tmp_path / "loop.home")
    with everlearn.open(spec | {"model": {"family": "linear"}}, home=tmp_path / "loop.home") as loop:
        loop.learn({"x": 1.0}, 1)
        assert loop.report()["examples"] == 1


@pytest.mark.parametrize(("mode", "weight"), [("live", 0.0), ("gated", 0.0), ("live", 1e-6)])
@pytest.mark.parametrize("late", [False, True])
def test_wrong_labels_of_no_weight_decide_nothing(tmp_path, mode, late, weight):
    draw = np.random.default_rng(0)
    chosen = spec(mode=mode, checkpoint=10_000, gate=GateSpec(minimum=100, guards={"recall:1": 0.1}))
    with everlearn.open(chosen, home=tmp_path / "home") as loop:
        for row in range(1500):
            a, wrong = float(draw.normal()), row >= 900
            label, weighs = int((a > 0) != wrong), weight if wrong else 1.0
            if late:
                loop.feedback(loop.predict({"a": a, "b": 0.0, "c": "c0"}).id, label=label, weight=weighs)
            else:
                loop.learn({"a": a, "b": 0.0, "c": "c0"}, label, weight=weighs)
            if row == 899:
                before = len(loop.decisions())
        made = [decision.action for decision in loop.decisions()[before:] if decision.action != "promote"]
        assert made == []
        assert loop.report()["examples"] == (900 if weight == 0.0 else 1500)
        assert loop.report()["waiting"] == 0


def test_models_are_compared_by_the_loss_that_the_loops_model_is_trained_for(tmp_path):
    schema = Schema(label="y", task="regression", fields={"x": "numeric"})
    chosen = Spec(schema=schema, model={"family": "linear", "loss": "quantile", "loss_parameter": 0.9})
    with everlearn.open(chosen, home=tmp_path / "home") as loop:
        assert loop.spec.gate.own == loop.fold.monitor.loss == Loss("pinball", 0.9)
        assert loop.fold.gate.loss == "pinball"
        for row in range(200):
            loop.learn({"x": float(row % 7)}, float(row % 5))
    with everlearn.open(chosen, home=tmp_path / "home") as loop:
        assert loop.spec.gate.own == loop.fold.monitor.loss == Loss("pinball", 0.9)
        assert [decision.action for decision in loop.decisions()].count("config") == 0
    absolute = msgspec.structs.replace(chosen, gate=GateSpec(loss="absolute"))
    with everlearn.open(absolute, home=tmp_path / "home") as loop:
        assert loop.fold.monitor.loss == Loss("absolute")
        assert loop.decisions()[-1].reason == "settings changed: gate"
    with everlearn.open(chosen, home=tmp_path / "home") as loop:
        assert loop.fold.monitor.loss == Loss("pinball", 0.9)


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_model_of_a_quantile_goes_on_covering_it(tmp_path, mode):
    draw, n = np.random.default_rng(0), 4000
    x = draw.normal(size=n)
    y = np.maximum(0.0, draw.exponential(3.0, n) + 0.3 * x)
    stream = read({"x": x, "y": y}, label="y")
    model = {"family": "linear", "loss": "quantile", "loss_parameter": 0.95}
    chosen = Spec(schema=stream.schema, mode=mode, model=model, drift=DriftSpec(detector="none"))
    with everlearn.open(chosen, home=tmp_path / "home") as loop:
        report = loop.run(stream)
        covered = [loop.predict({"x": float(a)}).value > b for a, b in zip(x[-300:], y[-300:], strict=True)]
    assert report["rollbacks"] == 0
    assert 0.85 <= np.mean(covered) <= 0.99


# ---- rows with a time ----------------------------------------------------------------------------------------------


def timed(rows: int) -> dict[str, Any]:
    """Hours whose label follows the hour of the week, with noise."""
    draw, hour = np.random.default_rng(3), np.arange(rows)
    label = np.round(hour % 24 + 5.0 * (hour // 24 % 7) + draw.normal(size=rows), 3)
    return {
        "at": np.datetime64("2026-01-01T00", "h") + hour,
        "a": draw.normal(size=rows),
        "label": label,
    }


def timed_spec(**changes: Any) -> Spec:
    schema = Schema(label="label", task="regression", fields={"a": "numeric", "at": "datetime"})
    return Spec(
        **({"schema": schema, "model": {"family": "linear"}, "tick": 20, "gate": GateSpec(minimum=100)} | changes)
    )


def test_the_label_of_one_season_ago_is_scored_for_rows_of_a_file_and_of_the_log(tmp_path):
    """A week ago is known from row 168 on; before it, a day ago; before that, the last label."""
    columns, n = timed(600), 600
    y = columns["label"]
    at = np.arange(n)
    daily = np.abs(y[168:] - y[144 : n - 24]).cumsum()
    weekly = np.abs(y[168:] - y[: n - 168]).cumsum()
    expected = np.where(at < 24, y[at - 1], y[at - 24])
    for row in range(169, n):
        expected[row] = y[row - 168] if weekly[row - 169] < daily[row - 169] else y[row - 24]
    wanted = np.abs(expected[1:].astype(np.float32) - y[1:]).mean()  # before the first label there is no answer
    with Loop(timed_spec(), tmp_path / "file") as loop:
        report = loop.run(read(columns, schema=loop.spec.schema))
        assert report["metrics"]["seasonal"]["mae"] == pytest.approx(wanted, rel=1e-6)
        assert report["metrics"]["seasonal"]["unscored"] == 1
        of_file = bytes_of(loop)
    given = [({"a": float(columns["a"][row]), "at": str(columns["at"][row])}, float(y[row])) for row in range(n)]
    with Loop(timed_spec(), tmp_path / "examples") as loop:
        for features, label in given:
            loop.learn(features, label)
        of_examples = bytes_of(loop)
    loop = Loop(timed_spec(), tmp_path / "answers")
    for number, (features, label) in enumerate(given):
        loop.feedback(loop.predict(features).id, label)
        if number == 300:  # killed and opened again
            loop.close()
            loop = Loop(timed_spec(), tmp_path / "answers")
    of_answers = bytes_of(loop)
    assert loop.report()["metrics"]["seasonal"]["mae"] == pytest.approx(wanted, rel=1e-6)
    loop.close()
    mine = [name for name in of_file if "season" in name]
    assert {name.rpartition("/")[2] for name in mine} >= {"season", "season_step", "season_label", "season_phases"}
    for name in mine:
        assert of_file[name] == of_examples[name] == of_answers[name], name


def test_a_late_label_is_not_known_one_season_later(tmp_path):
    """Labels come 30 hours late: a day ago is never known, so the answer is the last known label, then a week ago."""
    columns = timed(400)
    y, ids = columns["label"], []
    with Loop(timed_spec(), tmp_path / "home") as loop:
        for row in range(400):
            ids.append(loop.predict({"a": 0.0, "at": str(columns["at"][row])}).id)
            if row >= 30:
                loop.feedback(ids[row - 30], float(y[row - 30]))
        found = loop.report()["metrics"]["seasonal"]
    expected = [y[row - 168] if row >= 168 else y[row - 31] for row in range(31, 370)]
    assert found["examples"] + found["unscored"] == 370
    assert found["mae"] == pytest.approx(np.abs(np.array(expected) - y[31:370]).mean(), rel=1e-6)


def test_there_is_no_seasonal_baseline_without_a_time_or_with_clipped_columns(tmp_path):
    columns = timed(300)
    with Loop(timed_spec(limits=LimitsSpec(clip=0.05)), tmp_path / "clipped") as loop:
        assert "seasonal" not in loop.run(read(columns, schema=loop.spec.schema))["metrics"]
        assert not [name for name in bytes_of(loop) if "season" in name]
    with Loop(spec(), tmp_path / "untimed") as loop:
        assert "seasonal" not in loop.run(read(table(100), label="label"))["metrics"]
    with Loop(timed_spec(), tmp_path / "home") as loop:
        loop.run(read({name: column[:200] for name, column in columns.items()}, schema=loop.spec.schema))
    with Loop(timed_spec(limits=LimitsSpec(clip=0.05)), tmp_path / "home") as loop:  # clipped from now on
        loop.run(read(columns, schema=loop.spec.schema))
        assert "seasonal" not in loop.report()["metrics"]


def test_a_loop_says_what_it_is(tmp_path):
    with Loop(spec(mode="live"), tmp_path / "home") as loop:
        assert repr(loop) == f"<Loop in {tmp_path / 'home'}: live, 0 labelled examples, not started>"
        loop.learn({"a": 1.0, "b": 1.0, "c": "x"}, 1)
        loop.pause()
        champion = loop.fold.roster.champion.version
        assert repr(loop).endswith(f"live, 1 labelled examples, {champion} serves, learning paused>")
    assert repr(loop).endswith("closed>")
