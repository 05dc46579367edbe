"""Versions and aliases against a plain fold written here again; pruning against a plain search."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import BlobError, ConfigError, InputError, ModelError
from everlearn.records import Arrays, Born, Checkpoint, Decision, Label, Version
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions, related
from tests.support.snapshots import SPEC, file_of, same, some_arrays


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def versions(blobs: Blobs) -> Versions:
    return Versions(blobs)


def born(versions: Versions, number: int, parents: tuple[str, ...] = ()) -> Version:
    made = versions.make({"w": np.array([float(number)])}, SPEC, parents, number, "why", {"accuracy": 0.5})
    versions.note(Born(made))
    return made


def moved(alias: str, to: str, previous: str = "", action: Any = "promote") -> Decision:
    return Decision(action, 1, "why", "gate", alias, to, previous)


# ---- versions ------------------------------------------------------------------------------------------------------


def test_a_version_holds_what_it_was_made_of(blobs: Blobs, versions: Versions) -> None:
    made = versions.make(some_arrays(), SPEC, ("abc",), 42, "better", {"accuracy": np.float32(0.5), "auc": math.nan})
    assert made == Version(made.id, ("abc",), 42, made.blob, SPEC, {"accuracy": 0.5}, "better")
    assert len(made.id) == 12
    assert versions.list() == []
    versions.note(Born(made))
    versions.note(Born(made))
    assert versions.list() == [made]
    assert same(versions.load(made.id), some_arrays())
    assert blobs.get(made.blob)[1] == {"spec": SPEC}


def test_ids_follow_from_content_and_from_nothing_else(tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "nothing": {},
        "arrays": {"arrays": {"w": np.array([2.0])}},
        "spec": {"spec": {"family": "other"}},
        "parents": {"parents": ("p",)},
        "position": {"position": 2},
        "reason": {"reason": "other"},
        "metrics": {"metrics": {"accuracy": 0.75}},
    }
    given: dict[str, Any] = {"arrays": {"w": np.array([1.0])}, "spec": SPEC, "parents": (), "position": 1}
    given |= {"reason": "why", "metrics": {"accuracy": 0.5}}
    first = {name: Versions(Blobs(tmp_path / "a")).make(**(given | change)).id for name, change in changes.items()}
    time.sleep(0.01)
    second = {name: Versions(Blobs(tmp_path / "b")).make(**(given | change)).id for name, change in changes.items()}
    assert first == second
    assert len(set(first.values())) == len(changes)


def test_a_spec_with_tuples_is_kept_as_the_log_will_give_it_back(versions: Versions) -> None:
    made = versions.make(some_arrays(), {"classes": ("a", "b")}, (), 1, "why", {})
    assert made.spec == {"classes": ["a", "b"]}
    versions.note(Born(made))
    assert same(versions.load(made.id, spec={"classes": ("a", "b")}), some_arrays())
    with pytest.raises(ModelError, match="the spec cannot be stored"):
        versions.make(some_arrays(), {"rate": math.inf}, (), 1, "why", {})


def test_find_takes_ids_beginnings_and_aliases(versions: Versions) -> None:
    one, two = (Version(id, (), 1, "b", {}, {}, "") for id in ("abcd00000000", "abce00000000"))
    for each in (one, two):
        versions.note(Born(each))
    versions.note(moved("champion", one.id))
    versions.note(moved("abce", one.id))
    assert versions.find("abcd00000000") == versions.find("abcd") == versions.find("champion") == one
    assert versions.find("abce") == one  # an alias goes before the beginning of an id
    assert versions.find("abce0") == two
    with pytest.raises(InputError, match="'abc' may be any of abcd00000000, abce00000000; give more of the id"):
        versions.find("abc")
    for unknown in ("", "x", "abcd000000000"):
        with pytest.raises(
            InputError,
            match=r"there is no version '.*'; there are abcd00000000, abce00000000; "
            r"aliases: abce \(abcd00000000\), champion \(abcd00000000\)",
        ):
            versions.find(unknown)


def test_find_lists_the_newest_of_many_and_none_of_none(versions: Versions) -> None:
    with pytest.raises(InputError, match="there are none; aliases: none"):
        versions.find("champion")
    for number in range(30):
        versions.note(Born(Version(f"v{number:02}", (), 1, "b", {}, {}, "")))
    with pytest.raises(InputError, match=r"there are v20, .*, v29 and 20 older ones"):
        versions.find("x")


def test_load_refuses_a_foreign_spec_and_says_where(versions: Versions) -> None:
    made = versions.make(some_arrays(), SPEC, (), 1, "why", {})
    versions.note(Born(made))
    assert same(versions.load(made.id, spec=SPEC, like=some_arrays()), some_arrays())
    other = {"family": "linear", "rate": 0.25, "deep": {"classes": [0, 1], "bits": 18}, "extra": 1}
    with pytest.raises(ModelError) as error:
        versions.load(made.id, spec=other)
    assert str(error.value) == (
        f"version {made.id} is of another model: deep.bits is missing, expected 18; "
        "extra is missing, expected 1; rate is 0.5, expected 0.25"
    )
    with pytest.raises(ModelError, match=r"deep is .*, which was not expected"):
        versions.load(made.id, spec={"family": "linear", "rate": 0.5})


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({"w": np.zeros((2, 3)), "layer/b": np.zeros(2, np.int8)}, "'t' was not expected"),
        (some_arrays() | {"more": np.zeros(1)}, "'more' is missing"),
        (some_arrays() | {"w": np.zeros((3, 2))}, r"'w' has shape \(2, 3\), expected \(3, 2\)"),
        (some_arrays() | {"w": np.zeros((2, 3), np.float32)}, "'w' has dtype float64, expected float32"),
    ],
)
def test_load_refuses_arrays_that_do_not_fit(versions: Versions, like: Arrays, says: str) -> None:
    made = versions.make(some_arrays(), SPEC, (), 1, "why", {})
    versions.note(Born(made))
    with pytest.raises(ModelError, match=f"version {made.id} does not fit this model: {says}"):
        versions.load(made.id, like=like)


def test_load_refuses_a_snapshot_that_belongs_to_another_spec(blobs: Blobs, versions: Versions) -> None:
    foreign = blobs.put(some_arrays(), {"spec": {"family": "other"}})
    versions.note(Born(Version("v", (), 1, foreign, {"family": "linear"}, {}, "")))
    with pytest.raises(BlobError, match="is not of version v: family is 'other', expected 'linear'"):
        versions.load("v")


def test_load_refuses_a_damaged_snapshot(blobs: Blobs, versions: Versions) -> None:
    made = born(versions, 1)
    file_of(blobs, made.blob).write_bytes(b"short")
    with pytest.raises(BlobError, match="is truncated"):
        versions.load(made.id)


# ---- aliases -------------------------------------------------------------------------------------------------------


def test_promotion_and_rollback_move_the_champion_and_leave_previous_behind(versions: Versions) -> None:
    versions.note(moved("champion", "a", action="start"))
    versions.note(moved("challenger", "a", action="start"))
    assert versions.alias("previous") is None
    versions.note(moved("champion", "b", "a"))
    assert (versions.alias("champion"), versions.alias("previous")) == ("b", "a")
    versions.note(moved("champion", "a", "b", action="rollback"))
    assert versions.aliases() == {"a": ["challenger", "champion"]}
    versions.note(moved("challenger", "c", "a", action="challenger"))
    assert versions.aliases() == {"a": ["champion"], "c": ["challenger"]}


def test_previous_goes_further_back_with_each_rollback(versions: Versions) -> None:
    versions.note(moved("champion", "a", action="start"))
    for old, new in (("a", "b"), ("b", "c"), ("c", "d")):
        versions.note(moved("champion", new, old))
    found = []
    while (previous := versions.alias("previous")) is not None:
        found.append(previous)
        rollback = moved("champion", previous, str(versions.alias("champion")), action="rollback")
        versions.note(rollback)
        versions.note(rollback)  # twice, as a loop does
    assert found == ["c", "b", "a"]
    versions.note(moved("champion", "d", "a"))
    assert versions.alias("previous") == "a"


def test_a_name_is_an_alias_that_stays_where_it_is(versions: Versions) -> None:
    versions.note(moved("champion", "a", action="start"))
    named = Decision("config", 2, "why", "user", version="a", detail={"name": "spring", "note": "before the sale"})
    versions.note(named)
    versions.note(moved("champion", "b", "a"))
    assert (versions.alias("spring"), versions.note_of("a"), versions.note_of("b")) == ("a", "before the sale", "")
    versions.note(Decision("erase", 3, "why", "user", detail={"versions": {"a": "e"}}))
    assert (versions.alias("spring"), versions.alias("previous"), versions.note_of("e")) == (
        "e",
        "e",
        "before the sale",
    )


@pytest.mark.parametrize("action", ["reject", "drift", "config"])
def test_what_moves_nothing_moves_nothing(versions: Versions, action: str) -> None:
    versions.note(moved("champion", "a"))
    versions.note(moved("champion", "b", "a", action=action))
    versions.note(moved("champion", "", "a"))
    versions.note(moved("", "b", "a"))
    versions.note(Label("b", 1))
    versions.note(Checkpoint(1, "b"))
    assert versions.aliases() == {"a": ["champion"]}


ids = st.sampled_from(["", "a", "b", "c"])
decisions = st.builds(
    Decision,
    st.sampled_from(["start", "promote", "reject", "rollback", "drift", "challenger", "config"]),
    st.just(1),
    st.just("why"),
    st.just("gate"),
    st.sampled_from(["", "champion", "challenger", "canary"]),
    ids,
    ids,
)


@given(moves=st.lists(decisions, max_size=12), cut=st.integers(0, 12))
def test_aliases_are_a_fold_of_the_decisions(moves: list[Decision], cut: int) -> None:
    expected: dict[str, str] = {}
    former: list[str] = []
    for one in moves:
        if one.action in ("start", "promote", "rollback", "challenger") and one.alias != "" and one.version != "":
            if one.alias == "champion" and expected.get("champion") != one.version:
                if one.action != "rollback":
                    former += [one.previous] if one.previous not in ("", one.version) else []
                elif one.version in former:
                    while former.pop() != one.version:
                        pass
                else:  # no version is known here, so all are of the same age
                    former = []
                expected.pop("previous", None)
                expected |= {"previous": former[-1]} if former else {}
            expected |= {one.alias: one.version}
    with tempfile.TemporaryDirectory() as home:
        versions = Versions(Blobs(home))
        for one in moves:
            versions.note(one)
    assert {alias: at for at, aliases in versions.aliases().items() for alias in aliases} == expected
    assert {alias: versions.alias(alias) for alias in expected} == expected
    assert all(aliases == sorted(aliases) for aliases in versions.aliases().values())


# ---- pruning -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    parents=st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=1, max_size=10),
    aliases=st.dictionaries(st.sampled_from(["champion", "challenger", "previous"]), st.integers(0, 9)),
    held=st.sets(st.integers(0, 9), max_size=2),
    content=st.lists(st.integers(0, 5), min_size=10, max_size=10),
    keep=st.integers(0, 11),
)
def test_prune_takes_all_that_nobody_needs_and_nothing_else(
    parents: list[list[int]], aliases: dict[str, int], held: set[int], content: list[int], keep: int
) -> None:
    with tempfile.TemporaryDirectory() as home:
        blobs = Blobs(home)
        versions = Versions(blobs)
        checkpoint = blobs.put({"checkpoint": np.zeros(1)}, {})
        all_of: list[Version] = []
        for number, of in enumerate(parents):
            above = tuple(all_of[one].id for one in of if one < number)
            made = versions.make({"w": np.array([content[number]])}, SPEC, above, number, "why", {})
            versions.note(Born(made))
            all_of.append(made)
        for alias, number in aliases.items():
            if number < len(all_of):
                versions.note(moved(alias, all_of[number].id, action="challenger"))
        hold = {all_of[number].blob for number in held if number < len(all_of)}

        kept = [one for age, one in enumerate(reversed(all_of)) if age < keep or versions.aliases().get(one.id)]
        needed = [one for one in all_of if one in kept or any(one.id in other.parents for other in kept)]
        stay = {one.blob for one in needed} | hold
        gone = [one.id for one in all_of if one.blob not in stay]

        assert versions.prune(keep, hold) == gone
        assert blobs.hashes() == stay | {checkpoint}
        assert versions.prune(keep, hold) == []
        assert versions.list() == all_of
        for one in all_of:
            if one.id in gone:
                with pytest.raises(BlobError, match="it was pruned, or the file was lost"):
                    versions.load(one.id)
            else:
                versions.load(one.id)


def test_a_long_line_of_promotions_keeps_few_files(blobs: Blobs, versions: Versions) -> None:
    previous = born(versions, 0)
    for number in range(1, 30):
        made = born(versions, number, (previous.id,))
        versions.note(moved("champion", made.id, previous.id))
        versions.prune(3)
        previous = made
    assert len(blobs.hashes()) == 4  # three, and the parent of the third
    assert len(versions.list()) == 30


def test_a_budget_of_bytes_keeps_fewer_large_versions(blobs: Blobs, versions: Versions) -> None:
    large = [versions.make({"w": np.full(1000, number, float)}, SPEC, (), number, "why", {}) for number in range(6)]
    for made in large:
        versions.note(Born(made))
    versions.note(moved("champion", large[0].id))
    size = blobs.sizes()[large[0].blob]
    assert size > 8000
    assert versions.prune(6, most=0) == []
    assert versions.prune(6, most=6 * size) == []
    assert versions.prune(6, most=3 * size - 1) == [made.id for made in large[1:4]]  # the champion stays
    assert versions.prune(1, most=9 * size) == [large[4].id]
    assert versions.prune(6, most=1) == [large[5].id]
    assert blobs.hashes() == {large[0].blob}


def test_packed_versions_have_the_arrays_of_whole_ones(blobs: Blobs, versions: Versions) -> None:
    table = np.zeros((300, 300))
    table[7, 150] = -0.0
    whole = versions.make({"w": table}, SPEC, (), 1, "why", {})
    versions.packed = True
    packed = versions.make({"w": table}, SPEC, (), 1, "why", {})
    assert blobs.sizes()[packed.blob] < blobs.sizes()[whole.blob] / 20
    for made in (whole, packed):
        versions.note(Born(made))
        (found,) = versions.load(made.id, SPEC, {"w": table}).values()
        assert (found.dtype, found.tobytes()) == (table.dtype, table.tobytes())
        found[0] = 1.0  # the caller may change it


def test_prune_refuses_a_negative_number(versions: Versions) -> None:
    with pytest.raises(ConfigError, match="keep is -1, expected"):
        versions.prune(-1)


# ---- erasures and ancestors ----------------------------------------------------------------------------------------


def test_an_erasure_moves_every_alias_to_the_rebuilt_version(versions: Versions) -> None:
    for alias, id in (("champion", "b"), ("previous", "a"), ("challenger", "c")):
        versions.note(moved(alias, id))
    versions.note(Decision("erase", 9, "asked for", "user", detail={"versions": {"a": "x", "b": "y", "gone": "z"}}))
    assert versions.aliases() == {"c": ["challenger"], "x": ["previous"], "y": ["champion"]}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("a", "a", ("a", 0)),
        ("a", "c", ("a", 2)),
        ("c", "d", ("b", 2)),
        ("m", "d", ("d", 1)),
        ("e", "c", ("a", 3)),
        ("z", "c", (None, None)),
        ("unknown", "c", (None, None)),
    ],
)
def test_the_nearest_common_ancestor_and_the_generations_between(a: str, b: str, expected: Any) -> None:
    parents = {"a": (), "b": ("a",), "c": ("b",), "d": ("b",), "e": ("a",), "m": ("c", "d"), "z": ()}
    versions = {id: Version(id, above, 1, "", {}, {}, "") for id, above in parents.items()}
    assert related(versions, a, b) == expected
    assert related(versions, b, a) == expected
