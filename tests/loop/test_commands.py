"""Orders are checked before they are written: a registry, a spec and a log are enough for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlearn import events
from everlearn.errors import BlobError, ConfigError, InputError, ModelError
from everlearn.loop import commands
from everlearn.loop.details import (
    ChallengeOrder,
    MergeOrder,
    MergeRequest,
    PromoteOrder,
    RollBackOrder,
    ShadowOrder,
    WithdrawOrder,
    Without,
    order_id,
    read_order,
)
from everlearn.merge import How
from everlearn.records import Born, Decision, Version
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions
from tests.support.loops import spec
from tests.support.orders import LINEAR, MEAN

UNIFORM = {"method": "linear", "weights": [0.5, 0.5], "density": 1.0, "scale": 1.0, "seed": 0}


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(Blobs(tmp_path / "blobs"))


def grown(versions: Versions, number: float, *parents: str, model: Any = LINEAR) -> Version:
    """A version of a linear model, whose arrays are stored."""
    built = commands.build(spec(), model)
    built.arrays = {name: array + array.dtype.type(number) for name, array in built.arrays.items()}
    made = versions.make(built.arrays, model, parents, 1, "why", {})
    versions.note(Born(made))
    return made


def placed(versions: Versions, **aliases: str) -> None:
    for alias, id in aliases.items():
        versions.note(Decision("challenger", 1, "why", "loop", alias, id))


# ---- orders about versions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "kind"),
    [
        (lambda versions, id: commands.promote(versions, id, "why"), PromoteOrder),
        (lambda versions, id: commands.rollback(versions, "why", to=id), RollBackOrder),
        (lambda versions, id: commands.shadow(versions, id, "why"), ShadowOrder),
        (lambda versions, id: commands.withdraw(versions, id, "why"), WithdrawOrder),
    ],
)
def test_an_order_names_its_version_and_has_an_id(
    versions: Versions, order: Callable[..., Decision], kind: Any
) -> None:
    id = grown(versions, 1.0).id
    placed(versions, champion=id)
    made = [order(versions, name) for name in (id, id[:6], "champion")]
    assert all((one.action, one.by, one.version, one.reason, one.at) == ("order", "user", id, "why", 0) for one in made)
    assert all(isinstance(read_order(one), kind) for one in made)
    assert len({order_id(one) for one in made}) == 3
    with pytest.raises(InputError, match="there is no version 'x'"):
        order(versions, "x")


def test_a_version_without_arrays_is_not_ordered_to_serve(versions: Versions, tmp_path: Path) -> None:
    made = grown(versions, 1.0)
    (tmp_path / "blobs" / f"{made.blob}.safetensors").unlink()
    for order in (commands.promote, commands.shadow):
        with pytest.raises(BlobError, match="it was pruned, or the file was lost"):
            order(versions, made.id, "why")
    assert commands.withdraw(versions, made.id, "why").version == made.id


def test_the_previous_champion_is_needed_only_without_a_selection(versions: Versions) -> None:
    with pytest.raises(ConfigError, match="there is no previous champion to roll back to"):
        commands.rollback(versions, "why")
    order = commands.rollback(versions, "why", Without("web"))
    assert (order.version, read_order(order).without) == ("", Without("web"))  # type: ignore[union-attr]
    id = grown(versions, 1.0).id
    placed(versions, previous=id)
    assert commands.rollback(versions, "why").version == id
    assert commands.rollback(versions, "why", Without(first=3), to=id[:6]).version == id


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (Without(), "names no labels"),
        (Without(first=9, last=3), "first <= last"),
        (Without(first=-1), "first <= last"),
    ],
)
def test_a_selection_of_nothing_is_refused(versions: Versions, selection: Without, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        commands.rollback(versions, "why", selection)


def test_a_selection_is_parsed_and_unknown_keys_are_refused() -> None:
    assert commands.without({"source": "web", "last": 9}) == Without("web", 0, 9)
    for wrong in ({"sauce": "x"}, {"first": "three"}):
        with pytest.raises(InputError, match="expected source .text., first and last"):
            commands.without(wrong)


# ---- challengers ---------------------------------------------------------------------------------------------------


def test_families_that_nobody_vouches_for_are_refused():
    settings = spec()
    with pytest.raises(ConfigError, match=r"'tests.support.models:Mean' may not be started here.*serve\.families"):
        commands.challenge(settings, MEAN, "from outside")
    assert (
        commands.challenge(settings, MEAN, "from outside", frozenset(["tests.support.models:Mean"])).detail["model"]
        == MEAN
    )
    assert commands.challenge(settings, MEAN, "from here", None).action == "order"
    assert commands.challenge(spec(model=MEAN), MEAN, "the loop's own").detail["ask"] == "challenge"
    with pytest.raises(ConfigError, match="cannot be kept in the log"):
        commands.challenge(settings, {"family": "linear", "rate": object()}, "odd")


@pytest.mark.parametrize(
    "named",
    [
        {"family": "neural", "module": "os:system"},
        {"family": "linear", "terms": [{"kind": "replay", "augment": "os:system"}]},
        {"family": "gated", "model": {"family": "gated", "model": {"family": "os:system"}}},
    ],
)
def test_code_named_anywhere_in_a_spec_from_outside_must_be_trusted(named: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"'os:system' may not be started here"):
        commands.challenge(spec(), named, "from outside")


def test_a_challenge_carries_the_spec_and_whether_to_warm() -> None:
    order = read_order(commands.challenge(spec(), {"family": "linear", "rate": 0.1}, "why", warm=False))
    assert isinstance(order, ChallengeOrder)
    assert (order.model, order.warm) == ({"family": "linear", "rate": 0.1}, False)


@pytest.mark.parametrize(
    ("loop", "challenger", "optimizer"),
    [
        (LINEAR, LINEAR, "blend"),  # a home of this release
        ({**LINEAR, "layout": 2}, LINEAR, "quick"),  # a home of the release before
        (MEAN, LINEAR, "quick"),  # a challenger that the release before stored in the home of a user's family
        (MEAN, None, "blend"),  # one that this release stores there
    ],
)
def test_a_challenger_keeps_the_defaults_of_its_release(loop: Any, challenger: Any, optimizer: str) -> None:
    settings = spec(model=loop)
    if challenger is None:
        order = read_order(commands.challenge(settings, LINEAR, "why"))
        assert isinstance(order, ChallengeOrder)
        challenger = order.model
    assert commands.build(settings, challenger).spec["optimizer"] == optimizer


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"family": "nowhere:build"}, "no module named 'nowhere'"),
        ({"family": "linear", "speed": 3}, "speed"),
        ({"family": "tests.support.models:wide"}, r"answers one row with shape \(1, 5\); expected \(1, 2\)"),
    ],
)
def test_a_model_that_cannot_be_built_or_does_not_fit_is_refused(model: Any, reason: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=reason):
        commands.build(spec(), model)


# ---- merges --------------------------------------------------------------------------------------------------------


def test_a_merge_names_its_parents_by_id_and_learners_by_alias(versions: Versions) -> None:
    a, b = grown(versions, 1.0), grown(versions, 2.0)
    placed(versions, champion=a.id, previous=b.id)
    order = commands.merge(spec(), versions, ("champion", "previous"), How(method="linear"), "why")
    request = MergeRequest(["champion", b.id], [a.id, b.id], UNIFORM)
    assert read_order(order) == MergeOrder(request, order_id(order) or "")


def test_the_ancestor_of_a_merge_is_the_nearest_common_one(versions: Versions) -> None:
    root = grown(versions, 0.0)
    a, b, other = grown(versions, 1.0, root.id), grown(versions, 2.0, root.id), grown(versions, 3.0)
    assert commands.common(versions, [a.id, b.id]) == root.id
    unlisted = Version("new", (a.id,), 1, "", {}, {}, "")
    assert commands.common(versions, ["new", b.id], [unlisted]) == root.id
    with pytest.raises(InputError, match="have no common ancestor"):
        commands.common(versions, [a.id, other.id])
    how = How(method="task")
    with pytest.raises(InputError, match="have no common ancestor"):
        commands.merge(spec(), versions, (a.id, other.id), how, "why")
    order = read_order(commands.merge(spec(), versions, (a.id, other.id), how, "why", root.id[:6]))
    assert isinstance(order, MergeOrder)
    assert order.merge.ancestor == root.id


def test_what_cannot_be_merged_is_refused(versions: Versions) -> None:
    a, b = grown(versions, 1.0), grown(versions, 2.0)
    linear = How(method="linear")
    with pytest.raises(InputError, match="expected different versions"):
        commands.merge(spec(), versions, (a.id, a.id[:6]), linear, "why")
    with pytest.raises(InputError, match="got an ancestor, which 'linear' does not look at"):
        commands.merge(spec(), versions, (a.id, b.id), linear, "why", a.id)
    with pytest.raises(ConfigError, match="method: got 'magic'"):
        commands.merge(spec(), versions, (a.id, b.id), How(method="magic"), "why")
    other = grown(versions, 1.0, model=MEAN)
    with pytest.raises(InputError, match="cannot be merged"):
        commands.merge(spec(), versions, (a.id, other.id), linear, "why")


# ---- outcomes ------------------------------------------------------------------------------------------------------


def test_the_outcome_of_an_order_has_its_id(versions: Versions, tmp_path: Path) -> None:
    id = grown(versions, 1.0).id
    order, other = commands.promote(versions, id, "why"), commands.promote(versions, id, "why")
    with events.connect(str(tmp_path / "log.sqlite")) as log:
        (position,) = log.append([order])
        assert commands.outcome(log, order) is None
        done = Decision("promote", 1, "why", "user", "champion", id, detail={"order": order_id(order)})
        log.append([Decision("reject", 1, "no", "loop", detail={"order": order_id(other)}), done])
        assert commands.outcome(log, order, position) == done
        assert commands.outcome(log, order, log.end()) is None
