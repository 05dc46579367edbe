"""Carry out users' orders, with one function for each kind of order.

`order` raises an EverlearnError for an order that cannot be carried out, before the roster has changed; the caller
rejects it. Every decision that comes of an order carries the order's id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from everlearn.errors import ConfigError, InputError
from everlearn.events import Log, scan
from everlearn.gate import policy
from everlearn.gate.policy import By
from everlearn.learn import limits
from everlearn.learn.teach import warm
from everlearn.loop import commands, details, logged, merge_versions
from everlearn.loop.details import (
    Challenged,
    ChallengeOrder,
    Erasure,
    LearningPaused,
    Merged,
    MergeOrder,
    NameOrder,
    PauseOrder,
    Promoted,
    PromoteOrder,
    ResumeOrder,
    RollBackOrder,
    RolledBack,
    RolledBackWithout,
    Shadowed,
    ShadowOrder,
    UnknownOrder,
    VersionNamed,
    Withdrawn,
    WithdrawOrder,
    Without,
)
from everlearn.loop.logged import CHANGE, joins_again, warms_since_change
from everlearn.loop.merge_versions import Parent
from everlearn.loop.rebuild import rebuild, training_positions
from everlearn.loop.versioning import (
    Alias,
    Moment,
    TransitionContext,
    decision,
    note,
    revive,
    store,
    store_champion,
    store_progress,
    untrained,
)
from everlearn.model import Model, cut, restore
from everlearn.records import Decision, Event, Payload, Singles
from everlearn.serve.contestant import UNKNOWN, Contestant, Progress
from everlearn.version.registry import Versions

Skip = Callable[[Event], bool]


def order(context: TransitionContext, moment: Moment, given: Decision) -> list[Payload]:
    """Carry out an order; return the payloads to log."""
    match details.read_order(given):
        case PromoteOrder(order=id):
            return promote(context, moment, given, id)
        case RollBackOrder(order=id, without=without):
            if without is None:
                return roll_back(context, moment, given, id)
            return roll_back_without(context, moment, given, id, without)
        case ChallengeOrder() as request:
            return challenge(context, moment, given, request)
        case ShadowOrder(order=id):
            return shadow(context, moment, given, id)
        case MergeOrder() as request:
            return merge(context, moment, given, request)
        case WithdrawOrder(order=id):
            return withdraw(context, moment, given, id)
        case PauseOrder(order=id):
            return pause(context, moment, given, id, True)
        case ResumeOrder(order=id):
            return pause(context, moment, given, id, False)
        case NameOrder(name=name, note=text, order=id):
            named, alias = VersionNamed(name, text, order=id), Alias(version=given.version)
            return note(context, [decision(context, moment, "config", given.reason, "user", named, alias)])
        case UnknownOrder(ask=ask):
            raise ConfigError(f"there is no order {ask!r}; a newer Everlearn wrote it: upgrade")


def promote(context: TransitionContext, moment: Moment, given: Decision, id: str) -> list[Payload]:
    """Make a version the champion; a challenger that learns on is promoted as the model that it is now."""
    roster, version, detail = context.roster, given.version, Promoted(order=id)
    learner = _started(context, version)
    grown = store_progress(context, moment, learner, given.reason) if learner is not None else None
    payloads: list[Payload] = []
    if grown is not None:
        payloads, version, detail = [grown], grown.version.id, Promoted(order=id, learned=moment.learned)
    _check_moves(version, roster.champion.version)
    model = learner.tried.twin() if learner is not None else revive(context, version)
    retired, previous = store_champion(context, moment)
    if learner is not None and not (roster.live or roster.snapshots):
        roster.promote(learner, version, previous)
    else:
        traces = context.traces(learner.uid) if learner is not None and roster.live else {}
        copied = roster.install(version, model, keep=True, previous=previous)
        detail = msgspec.structs.replace(detail, learns=copied or None)
        if learner is not None and roster.live:  # the champion learns on as it, and would be compared with itself
            roster.dismiss(learner)
        if traces:
            others = {one.uid: context.traces(one.uid) for one in roster.contestants if one.learns}
            context.retraced.update(others | {roster.champion.uid: traces})
    roster.rollbacks = []
    alias = Alias("champion", version, previous)
    promoted = decision(context, moment, "promote", given.reason, "user", detail, alias)
    return [*note(context, [*retired, *payloads]), promoted]


def roll_back(context: TransitionContext, moment: Moment, given: Decision, id: str) -> list[Payload]:
    """Make a former champion the champion again."""
    former = revive(context, given.version)
    retired, previous = store_champion(context, moment)
    _check_moves(given.version, previous)
    copied = context.roster.install(given.version, former, keep=False)
    context.roster.rollbacks = []
    alias, detail = Alias("champion", given.version, previous), RolledBack(order=id, learns=copied or None)
    back = decision(context, moment, "rollback", given.reason, "user", detail, alias)
    return [*note(context, retired), back]


def challenge(context: TransitionContext, moment: Moment, given: Decision, request: ChallengeOrder) -> list[Payload]:
    """Start a challenger of any family."""
    _check_room(context)
    fresh, reason = commands.build(context.spec, request.model), f"fresh challenger: {given.reason}"
    return start_challenger(context, moment, fresh, request.model, reason, "user", request.warm, request.order)


def start_challenger(
    context: TransitionContext,
    moment: Moment,
    fresh: Model,
    spec: Mapping[str, Any],
    reason: str,
    by: By,
    warmed: bool,
    id: str | None = None,
) -> list[Payload]:
    """Add a challenger that learns: untrained, or trained on the replay memory first if `warmed`.

    After a drift it learns only rows since the estimated change, however few: what came before is another world.
    """
    monitor, changed = context.monitor, False
    if by == "drift" and warms_since_change(context.versions, moment.at):
        remembered, changed = monitor.remembered_since_drift()
    else:
        remembered = monitor.remembered()
    known = logged.warmed(context.versions, moment.at, by, id)
    if known is not None:
        held = monitor.remembered()
        remembered = cut(held, max(0, len(held.y) - known.rows), len(held.y))
    if warmed and known is not None and known.arrays is not None:
        restore(fresh, known.arrays)
    elif warmed and len(remembered.y):
        weight = monitor.limiter.class_weights.now(remembered.y, remembered.weight)
        warm(fresh, replace(remembered, weight=weight))
        since = f" since {CHANGE}" if changed else ""
        reason = f"{reason}, warmed on {len(remembered.y)} remembered rows{since}"
    elif warmed and changed:
        reason = f"{reason}, untrained: no remembered row is newer than {CHANGE}"
    else:
        reason = f"{reason}, untrained"
    born = store(context, moment, fresh, spec, (), reason)
    note(context, [born])
    context.roster.challenge(born.version.id, fresh, by)
    detail = Challenged(learned=moment.learned, order=id)
    alias = Alias("challenger", born.version.id)
    return [born, decision(context, moment, "challenger", reason, by, detail, alias)]


def shadow(context: TransitionContext, moment: Moment, given: Decision, id: str) -> list[Payload]:
    """Put a version in shadow: it is compared with the champion and does not learn."""
    _check_room(context)
    if any(challenger.version == given.version for challenger in context.roster.challengers if not challenger.learns):
        raise ConfigError(f"version {given.version} is in shadow already")
    context.roster.shadow(given.version, revive(context, given.version))
    alias = Alias(version=given.version)
    return [decision(context, moment, "challenger", given.reason, "user", Shadowed(order=id), alias)]


def merge(context: TransitionContext, moment: Moment, given: Decision, request: MergeOrder) -> list[Payload]:
    """Merge versions into a new one, and put that in shadow; learners are merged as the models that they are now."""
    _check_room(context)
    recipe, known = request.merge, training_positions(context.log)
    named = zip(recipe.parents, recipe.versions, strict=True)
    parents = [_parent(context, moment, name, version, known) for name, version in named]
    result = merge_versions.merge(recipe, parents, context.versions, lambda version: revive(context, version), known)
    spec, ids = parents[0].version.spec, [parent.version.id for parent in parents]
    model = commands.build(context.spec, spec)
    restore(model, result.arrays)
    reason = f"merged {' and '.join(ids)} by {result.method}: {given.reason}"
    born = store(context, moment, model, spec, ids, reason)
    learned = result.learned if result.learned != UNKNOWN else None
    grown = merge_versions.stored_progress(parents)
    detail = Merged(result.recipe, order=request.order, grown=grown, learned=learned)
    context.roster.shadow(born.version.id, model)
    note(context, [*(parent.born for parent in parents if parent.born is not None), born])
    merged = decision(context, moment, "challenger", reason, "user", detail, Alias(version=born.version.id))
    return [*(parent.born for parent in parents if parent.born is not None), born, merged]


def withdraw(context: TransitionContext, moment: Moment, given: Decision, id: str) -> list[Payload]:
    """Remove a challenger that was started, or a version in shadow."""
    removable = [challenger for challenger in context.roster.challengers if challenger.by != "loop"]
    found = next((challenger for challenger in removable if challenger.version == given.version), None)
    if found is None:
        listed = ", ".join(challenger.version for challenger in removable) or "none"
        raise InputError(f"version {given.version} is not a challenger that can be withdrawn; there are: {listed}")
    context.roster.dismiss(found)
    alias = Alias(version=given.version)
    return [decision(context, moment, "withdraw", given.reason, "user", Withdrawn(order=id), alias)]


def pause(context: TransitionContext, moment: Moment, given: Decision, id: str, paused: bool) -> list[Payload]:
    """Pause learning from the next label on, or end that."""
    if context.monitor.limiter.paused == paused:
        raise InputError("learning is paused already" if paused else "learning is not paused")
    context.monitor.limiter.paused = paused
    return [decision(context, moment, "config", given.reason, "user", LearningPaused(paused, order=id))]


# ---- a rollback without some labels --------------------------------------------------------------------------------


def roll_back_without(
    context: TransitionContext, moment: Moment, given: Decision, id: str, without: Without
) -> list[Payload]:
    """Seat a champion from before the first such label; learners learn again what came since, without those labels."""
    at, roster = moment.at, context.roster
    without = msgspec.structs.replace(without, last=min(without.last or at - 1, at - 1))
    champions, earlier = champion_history(context.log, context.monitor.scored, at, context.versions)
    known = training_positions(context.log)
    answered = logged.answer(context.versions, id)
    detail = details.read(answered) if answered is not None else None
    if answered is not None and isinstance(detail, RolledBackWithout):  # whose labels may be erased by now
        first, version = detail.first, answered.version
    else:
        first = _first_selected(context.log, without, at)
        version = given.version or _last_before(first, champions, known)
    if version not in known:
        raise InputError(f"the log does not tell what version {version} had learned at its birth; name another one")
    if known[version].log >= first:
        raise InputError(f"version {version} has learned labels that are to be left out, from position {first} on")

    def skip(event: Event) -> bool:  # earlier selections stay left out
        return any(selection.selects(event.position, event.payload) for selection in (*earlier, without))

    champion = revive(context, version)
    joined, rebuilt, counts = joins_again(context.versions, id), [], [(0, 0)]
    for learner in [contestant for contestant in roster.contestants if contestant.learns]:
        origin, model, since = _clean_start(context, learner, version, first, known)
        waiting: dict[str, Singles] = {}
        counts.append(_learn_again(context, model, since.log, at, skip, moment.learned.row, waiting, joined))
        rebuilt.append((learner, model, origin, waiting))
    retired, previous = store_champion(context, moment)
    roster.install(version, champion, keep=False)
    roster.rollbacks = []
    for learner, model, origin, waiting in rebuilt:
        stayed = any(learner is contestant for contestant in roster.contestants)
        heir = learner if stayed else roster.challenger  # a gated champion that learned: its copy learns on
        roster.restart(heir, model, origin)
        context.retraced[heir.uid] = waiting
    again, left_out = max(counts)
    forgotten = _forget(context, skip, first, at)
    lost = max(0, moment.learned.row - known[version].row)  # rows of files, which are not in the log
    done = RolledBackWithout(without, 0, id, first, again, left_out, forgotten, lost, joined or None)
    alias = Alias("champion", version, previous)
    return [*note(context, retired), decision(context, moment, "rollback", given.reason, "user", done, alias)]


def champion_history(log: Log, scored: int, at: int, versions: Versions) -> tuple[list[str], list[Without]]:
    """Return the champions up to position `at`, in order, and the labels that rollbacks have left out.

    Decisions after more than `scored` examples are passed over, and so are answers to this order and later ones: after
    a lost checkpoint, and in a replay, the log is folded again, and holds decisions that were not made yet.
    """
    champions: list[str] = []
    left_out: list[Without] = []
    known = {version.id for version in versions.list()}  # a replay passes over the erasures to come
    for event in scan(log, kinds=("decision",)):
        made = event.payload
        if not isinstance(made, Decision) or details.examples(made) > scored or event.position > at <= made.at:
            continue
        if made.alias == "champion":
            champions.append(made.version)
            detail = details.read(made)
            left_out += [detail.without] if isinstance(detail, RolledBackWithout) else []
        elif made.action == "erase" and isinstance(erasure := details.read(made), Erasure):  # it replaced versions
            again = {old: new for old, new in erasure.versions.items() if new in known}
            champions = [again.get(version, version) for version in champions]
    return champions, left_out


def _first_selected(log: Log, without: Without, at: int) -> int:
    """Return the position of the first label that is left out, before position `at`; InputError if there is none."""
    for event in scan(log, max(0, without.first - 1), upto=at - 1):
        if without.selects(event.position, event.payload):
            return event.position
    raise InputError("there is no such label in the log; see its source and position")


def _clean_start(
    context: TransitionContext, learner: Contestant, version: str, first: int, known: Mapping[str, Progress]
) -> tuple[str, Model, Progress]:
    """Return where a learner begins again: its own version if that is from before `first`, else `version`."""
    own, is_champion = context.versions.find(learner.version), learner is context.roster.champion
    if not is_champion and _is_before(own.id, first, known):
        return own.id, revive(context, own.id), known[own.id]
    if is_champion or own.spec == context.versions.find(version).spec:
        return version, revive(context, version), known[version]
    return own.id, untrained(context, own.id), known[version]  # another family, and no part of it is known to be clean


def _learn_again(
    context: TransitionContext,
    model: Model,
    after: int,
    at: int,
    skip: Skip,
    rows: int,
    waiting: dict[str, Singles],
    joined: bool,
) -> tuple[int, int]:
    """Let a model learn the log again; ranges learned from rows of files are not in the log, so today's hold.

    Where the log is not `joined` again, as release 0.1.0 did it, today's ranges hold as well, and no other limit.
    """
    ranges = limits.bounds(context.monitor.limits) if rows or not joined else None
    parts = context.log, context.encoder, context.spec, after, at, skip, ranges
    return rebuild(model, *parts, waiting, context.widths(), not joined)


def _forget(context: TransitionContext, skip: Skip, first: int, at: int) -> int:
    """Remove the rows that are left out from the replay memory; return their number."""

    def is_left_out(position: int, y: float) -> bool:
        found = context.log.read(position - 1, 1) if first <= position < at else []
        return bool(found) and found[0].position == position and skip(found[0])

    return context.monitor.forget(is_left_out)


def _is_before(version: str, first: int, known: Mapping[str, Progress]) -> bool:
    """Return True if a version is known to have learned nothing from position `first` on."""
    return version in known and known[version].log < first


def _last_before(first: int, champions: Sequence[str], known: Mapping[str, Progress]) -> str:
    """Return the last champion that has learned nothing from position `first` on."""
    for version in reversed(champions):
        if _is_before(version, first, known):
            return version
    raise InputError(f"there is no version from before position {first} to go back to")


# ---- parts ---------------------------------------------------------------------------------------------------------


def _parent(
    context: TransitionContext, moment: Moment, name: str, version: str, known: Mapping[str, Progress]
) -> Parent:
    """Return the parent that a name in a merge stands for: a version, or a learner as the model that it is now."""
    contestant = merge_versions.contestant(context.roster, name, version)
    if contestant is not None and contestant.learns:
        born = store_progress(context, moment, contestant, "what it was when it was merged")
        if born is not None:
            return Parent(born.version, contestant.tried.twin(), moment.learned, born)
    found = context.versions.find(contestant.version if contestant is not None else version)
    return Parent(found, revive(context, found.id), known.get(found.id, UNKNOWN))


def _started(context: TransitionContext, version: str) -> Contestant | None:
    """Return the learning challenger that drift or a user started as this version, if there is one."""
    started = [challenger for challenger in context.roster.challengers if challenger.learns and challenger.by != "loop"]
    return next((challenger for challenger in started if challenger.version == version), None)


def _check_moves(version: str, serving: str) -> None:
    if version == serving:
        raise InputError(f"version {version} serves already, so there is nothing to do; name another version")


def _check_room(context: TransitionContext) -> None:
    count, limit = policy.contending(context.roster.contenders()), context.spec.challengers
    if count >= limit:
        raise ConfigError(f"{count} models contend already, and challengers = {limit}: withdraw one, or raise it")
