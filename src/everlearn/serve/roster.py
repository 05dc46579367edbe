"""The models of one loop: the champion, the good version behind it, the challengers and the baselines.

    champion     answers; learns as it serves, or is frozen
    good         one frozen version to go back to, or None
    challengers  compared with the champion; each learns, or is a version put in shadow (`learns` is False)
    baselines    frozen and scored. No gate promotes one, but the guard may roll back to it: the frozen start today

In `gated` mode a learning challenger nominates a frozen `snapshot` of itself, and the gate judges that: a model that
keeps learning can be far better than any snapshot of it, and the model that is promoted must be the one that was
tested. In `live` mode the champion learns as it serves, and the guard compares it with the good version.

One rule covers every change of the seat: a model that takes the seat learns if the mode is `live` or if it was promoted
as a learner; otherwise it serves frozen. At the start, where no learner exists yet, a copy of it challenges.

The roster moves contestants and never decides: `gate/policy.py` decides, `loop/transitions.py` carries it out.
Contestants may be of different families: each has the family of its version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from everlearn.gate.policy import By, Concept, Contender
from everlearn.model import Model, copied, copy, prefixed, restore, within
from everlearn.records import Arrays
from everlearn.serve.isolation import IsolatedModel
from everlearn.spec import GATE_LAYOUT

Role = Literal["champion", "frozen", "previous", "challenger", "fresh", "candidate", "shadow"]


class Progress(NamedTuple):
    """How much some arrays have learned: everything up to this log position, and up to this row of files."""

    log: int
    row: int


UNKNOWN = Progress(-1, -1)


@dataclass(slots=True)
class Trial:
    """The record of one candidate: the gate's evidence, its metrics, and how many examples it was tested on."""

    evidence: Arrays
    metrics: Arrays
    tested: int = 0


@dataclass(slots=True, eq=False)
class Contestant:
    """A model in the roster. `uid` is never used twice; `version` is the version that its arrays came from.

    `trial` is None until the gate first compares it. `snapshot` and `by` belong to challengers: the frozen copy that
    one has nominated, and what started it. `learned` belongs to snapshots: what they had learned when they were taken.
    `columns` is the width of predictions (0: any). `place` orders contestants; it stays when the uid changes.
    """

    uid: int
    version: str
    model: Model
    learns: bool
    by: By = "loop"
    snapshot: Contestant | None = None
    trial: Trial | None = None
    learned: Progress = UNKNOWN
    columns: int = 0
    place: int = 0

    @property
    def tried(self) -> IsolatedModel:
        """The model for use in a fold: its failures are raised as ModelFailure with this uid."""
        return IsolatedModel(self.model, self.uid, self.columns)


class Roster:
    """The contestants of one loop. `contestants` is a flat view of them all, snapshots too, in a stable order."""

    def __init__(self, live: bool = False, columns: int = 0, layout: int = GATE_LAYOUT) -> None:
        self.live, self.layout = live, layout
        self.good: Contestant | None = None
        self.challengers: list[Contestant] = []  # in order of place
        self.baselines: list[Contestant] = []
        self.contestants: list[Contestant] = []
        self._champion: Contestant | None = None
        self._contenders: dict[int, Contender] = {}  # by uid, as of the flat view
        self._comparisons: list[tuple[Contestant, Contestant]] = []  # as of the flat view
        self._columns = columns
        self._uids = 0

    def start(self, version: str, model: Model, trained: bool = True) -> None:
        """Seat the first version; `model` learns on, as the champion or as its challenger, beside frozen copies.

        A live version that is not `trained` is not good: `keep_good` stores the first one that is.
        """
        frozen = copy(model)
        self.good, self.challengers = None, []
        self.baselines = [self._new(version, frozen)]
        if self.live:
            self.good = self._new(version, frozen) if trained or self.layout == 1 else None
            self._champion = self._new(version, model, learns=True)
        else:
            self._champion = self._new(version, frozen)
            self.challengers = [self._new(version, model, learns=True)]
        self._arrange()

    # ---- views -----------------------------------------------------------------------------------------------------

    @property
    def champion(self) -> Contestant:
        """The contestant that answers. Raises LookupError before the start."""
        if self._champion is None:
            raise LookupError("the roster is empty; start or load it first")
        return self._champion

    @property
    def standing(self) -> Contestant | None:
        """The challenger that the loop itself keeps in `gated` mode; None once it failed and none took its place."""
        return next((challenger for challenger in self.challengers if challenger.by == "loop"), None)

    @property
    def challenger(self) -> Contestant:
        """The model that learns from every example: the standing challenger, else the champion."""
        return self.standing or self.champion

    @property
    def canary(self) -> Contestant | None:
        """The contestant that may answer a share of the traffic: the oldest challenger.

        In `gated` mode it is the snapshot of the standing challenger, in `live` mode the first one that learns.
        """
        if self.live:
            return next((challenger for challenger in self.challengers if challenger.learns), None)
        return self.standing.snapshot if self.standing is not None else None

    def frozen_start(self) -> Contestant:
        """Return the first baseline, a model that never learned since the start; the champion where it is gone."""
        return self.baselines[0] if self.baselines else self.champion

    def scored(self) -> dict[str, int]:
        """Return the uid of each contestant whose metrics are kept, by the word that names its curve."""
        scored = {"champion": self.champion.uid}
        if self.live or self.standing is not None:
            scored["challenger"] = self.challenger.uid
        if self.baselines and not self.is_untrained:
            scored["frozen"] = self.baselines[0].uid
        return scored

    @property
    def is_untrained(self) -> bool:
        """True before the first good version of a live loop that started untrained."""
        return self.layout > 1 and self.live and self.good is None

    def known(self, uid: int) -> Contestant | None:
        """Return the contestant with this uid, if it is still here."""
        return next((contestant for contestant in self.contestants if contestant.uid == uid), None)

    def concept(self, contestant: Contestant) -> Concept:
        """Return the concept that a contestant falls under; it must be in the roster."""
        return self._contenders[contestant.uid].concept

    def role_of(self, contestant: Contestant) -> Role:
        """Return the word for a contestant in checkpoints, in the status and on the dashboard."""
        match self.concept(contestant):
            case "good":
                return "previous"
            case "baseline":
                return "frozen"
            case "snapshot":
                return "candidate"
            case "challenger" if not contestant.learns:
                return "shadow"
            case "challenger" if contestant.by != "loop":
                return "fresh"
            case "challenger":
                return "challenger"
            case _:
                return "champion"

    def contenders(self) -> tuple[Contender, ...]:
        """Return all contestants as the policy sees them, in their stable order."""
        return tuple(self._contenders.values())

    def contender(self, contestant: Contestant) -> Contender:
        """Return one contestant as the policy sees it."""
        return self._contenders[contestant.uid]

    def comparisons(self) -> list[tuple[Contestant, Contestant]]:
        """Return the pairs (candidate, reference) that the gate compares, in their order."""
        return self._comparisons

    def _pairs(self, champion: Contestant) -> list[tuple[Contestant, Contestant]]:
        good = self.good
        candidates = [contestant for contestant in self.contestants if self._is_candidate(contestant)]
        pairs = [(candidate, champion) for candidate in candidates]
        if self.layout == 1 or not self.live:
            known = (champion.version, good.version if good is not None else "")
            pairs += [(baseline, champion) for baseline in self.baselines if baseline.version not in known]
        if good is not None:
            pairs.append((champion, good) if self.live else (good, champion))
        return pairs

    def _is_candidate(self, contestant: Contestant) -> bool:
        """Return True for a contestant that may be promoted: gated, a frozen candidate; live, every challenger."""
        concept = self.concept(contestant)
        return concept == "snapshot" or (concept == "challenger" and (self.live or not contestant.learns))

    # ---- challengers -----------------------------------------------------------------------------------------------

    def challenge(self, version: str, model: Model, by: By = "user") -> Contestant:
        """Add a challenger that learns from now on."""
        return self._challenge(self._new(version, model, learns=True, by=by))

    def shadow(self, version: str, model: Model) -> Contestant:
        """Add a version that does not learn, to be compared with the champion."""
        return self._challenge(self._new(version, model, by="user"))

    def nominate(self, learned: Progress = UNKNOWN) -> None:
        """Give every learning challenger without a snapshot one of the model that it is now; `live` mode has none."""
        owners = [one for one in self.challengers if one.learns and one.snapshot is None and not self.live]
        for owner in owners:
            owner.snapshot = self._new(owner.version, owner.tried.twin())
            owner.snapshot.learned = learned
        if owners:
            self._arrange()

    def withdraw(self, snapshot: Contestant) -> None:
        """Remove a snapshot; its challenger may nominate another."""
        owner = self._owner(snapshot)
        if owner is not None:
            owner.snapshot = None
        self._arrange()

    def dismiss(self, challenger: Contestant) -> None:
        """Remove a challenger, and its snapshot with it."""
        self.challengers = [other for other in self.challengers if other is not challenger]
        self._arrange()

    def reject(self, candidate: Contestant) -> None:
        """Remove a candidate. A snapshot takes its challenger along, unless that is the standing one."""
        owner = self._owner(candidate)
        if owner is None:
            self.dismiss(candidate)
            return
        self.withdraw(candidate)
        if owner.by != "loop":
            self.dismiss(owner)

    def restart(self, contestant: Contestant, model: Model, version: str) -> None:
        """Give a contestant another model. It is not the same one any more, so it gets a new uid and no evidence."""
        contestant.model, contestant.version = model, version
        contestant.uid = self._uid()
        contestant.snapshot = contestant.trial = None
        self._arrange()

    # ---- the seat --------------------------------------------------------------------------------------------------

    def promote(self, candidate: Contestant, version: str) -> None:
        """Seat `candidate`, stored as `version`. Live, a frozen copy of it becomes good; gated, the old champion does.

        A live champion that is promoted keeps its seat. Raises ModelFailure, and changes nothing, where a model cannot
        be copied.
        """
        old, owner = self.champion, self._owner(candidate)
        if self.live:
            self.good = self._new(version, candidate.tried.twin())
        else:
            self.good = old
            if owner is not None:
                self._win(owner, version)
        self.challengers = [challenger for challenger in self.challengers if challenger is not candidate]
        self._champion, candidate.version = candidate, version
        candidate.learns, candidate.by = self.live or candidate.learns, "loop"
        self.reset_evidence()

    def install(self, version: str, model: Model, keep: bool, uid: int = 0) -> None:
        """Seat `model`, which is `version`. Gated, the old champion becomes good if `keep`, else nothing is good.

        Live, the champion becomes a copy of it that learns on, and `model` is good. Raises ModelFailure, and changes
        nothing, where there can be no copy; `uid` says whose model it is.
        """
        champion = self.champion
        if self.live:
            learner = IsolatedModel(model, uid).twin()
            is_good = not (self.is_untrained and any(baseline.version == version for baseline in self.baselines))
            self.restart(champion, learner, version)
            self.good = self._new(version, model) if is_good else None
        else:
            self.good = champion if keep else None
            self._champion = self._new(version, model)
        self.reset_evidence()

    def is_first_champion(self, model: Model) -> bool:
        """Return True for the model of a live champion that started untrained, before its first good version."""
        return self.is_untrained and self._champion is not None and model is self._champion.model

    def keep_good(self, version: str) -> None:
        """Keep a frozen copy of the live champion, stored as `version`, as good; the untrained start leaves.

        Challengers keep their evidence: the champion is the same model as before. Raises ModelFailure, and changes
        nothing, where it cannot be copied.
        """
        champion, untrained = self.champion, self.is_untrained
        self.good = self._new(version, champion.tried.twin())
        if untrained:
            self.baselines = []
        champion.version, champion.trial = version, None
        self._arrange()

    def confirm(self, candidate: Contestant) -> None:
        """Note that a frozen contestant is worse than the champion: good leaves, a baseline is compared again."""
        if candidate is self.good:
            self.good = None
        candidate.trial = None
        self._arrange()

    def expel(self, contestant: Contestant) -> None:
        """Remove a contestant that failed, except the champion; the oldest learner left becomes the standing one."""
        if self._owner(contestant) is not None:
            self.reject(contestant)
        else:
            self.good = None if contestant is self.good else self.good
            self.baselines = [baseline for baseline in self.baselines if baseline is not contestant]
            self.dismiss(contestant)
        learners = [challenger for challenger in self.challengers if challenger.learns]
        if not self.live and self.standing is None and learners:
            learners[0].by = "loop"
            self._arrange()

    def let_learn(self, contestant: Contestant, learns: bool) -> None:
        """Pause a contestant that learns, or let it learn again."""
        contestant.learns = learns
        self._arrange()

    def reset_evidence(self) -> None:
        """Drop all snapshots and evidence: the champion, or the gate, has changed, and they are about the old one."""
        for challenger in self.challengers:
            challenger.snapshot = None
        self._arrange()
        for contestant in self.contestants:
            contestant.trial = None

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return everything needed to restore the roster: arrays, and a header of plain values.

        The header names each contestant by its role (`role_of`), from which `load` derives the concepts; `by` is added
        for challengers that drift started, which a role does not tell. A contestant with the arrays of its version has
        none here: they are stored already.
        """
        arrays: Arrays = {}
        entries: list[dict[str, Any]] = []
        for contestant in self.contestants:
            role, owner = self.role_of(contestant), self._owner(contestant)
            if _differs(role, contestant.learns):
                arrays |= prefixed(f"model/{contestant.uid}/", contestant.model.arrays)
            if contestant.trial is not None:
                arrays |= prefixed(f"evidence/{contestant.uid}/", contestant.trial.evidence)
                arrays |= prefixed(f"metrics/{contestant.uid}/", contestant.trial.metrics)
            entry: dict[str, Any] = {
                "uid": contestant.uid,
                "role": role,
                "version": contestant.version,
                "learns": contestant.learns,
            }
            entry["of"] = owner.uid if owner is not None else 0
            entry["tested"] = contestant.trial.tested if contestant.trial is not None else None
            entry["learned"] = list(contestant.learned)
            entries.append(entry | ({"by": contestant.by} if contestant.by == "drift" else {}))
        return arrays, {"uids": self._uids, "contestants": entries}

    def load(
        self, arrays: Arrays, header: dict[str, Any], build: Callable[[str], Model], fetch: Callable[[str], Arrays]
    ) -> None:
        """Restore what `state` returned, here or in an older release.

        `build` makes an untrained model of a version's spec, `fetch` reads the arrays of a version.
        """
        self.good, self.challengers, self.baselines = None, [], []
        shared: dict[str, Model] = {}  # one model for all the contestants that are the same version
        owned: list[tuple[int, Contestant]] = []
        for place, entry in enumerate(header["contestants"]):
            uid, role, version, learns = entry["uid"], entry["role"], entry["version"], entry["learns"]
            differs = _differs(role, learns)
            model = shared.get(version) if not differs else None
            if model is None:
                model = build(version)
                restore(model, within(arrays, f"model/{uid}/") if differs else fetch(version))
            if not differs:
                shared[version] = model
            contestant = Contestant(uid, version, model, learns, columns=self._columns, place=place)
            contestant.learned = Progress(*entry.get("learned", UNKNOWN))
            if entry["tested"] is not None:
                evidence = copied(within(arrays, f"evidence/{uid}/"))
                contestant.trial = Trial(evidence, copied(within(arrays, f"metrics/{uid}/")), entry["tested"])
            if role == "candidate":
                owned.append((entry["of"], contestant))
            else:
                self._place(role, contestant, entry.get("by", "user"))
        for uid, snapshot in owned:
            next(challenger for challenger in self.challengers if challenger.uid == uid).snapshot = snapshot
        self._uids = header["uids"]
        self._arrange()

    def _place(self, role: Role, contestant: Contestant, by: By) -> None:
        """Put a contestant where its role says."""
        match role:
            case "champion":
                self._champion = contestant
            case "previous":
                self.good = contestant
            case "frozen":
                self.baselines.append(contestant)
            case _:
                contestant.by = "loop" if role == "challenger" else by
                self.challengers.append(contestant)

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _new(self, version: str, model: Model, learns: bool = False, by: By = "loop") -> Contestant:
        uid = self._uid()
        return Contestant(uid, version, model, learns, by, columns=self._columns, place=uid)

    def _challenge(self, challenger: Contestant) -> Contestant:
        self.challengers.append(challenger)
        self._arrange()
        return challenger

    def _win(self, owner: Contestant, version: str) -> None:
        """A snapshot of `owner` was promoted: it learns on as that version, and is the standing challenger."""
        owner.version = version
        if owner.by != "loop":
            self.challengers = [challenger for challenger in self.challengers if challenger.by != "loop"]
            owner.by = "loop"

    def _owner(self, snapshot: Contestant) -> Contestant | None:
        """Return the challenger that nominated a snapshot; None for any other contestant."""
        return next((challenger for challenger in self.challengers if challenger.snapshot is snapshot), None)

    def _arrange(self) -> None:
        """Renew the flat view, which is read for every prediction and changes seldom."""
        seats: list[tuple[Concept, Contestant | None]] = [("champion", self._champion), ("good", self.good)]
        seats += [("baseline", baseline) for baseline in self.baselines]
        seats += [("challenger", challenger) for challenger in self.challengers]
        seats += [("snapshot", challenger.snapshot) for challenger in self.challengers]
        placed = sorted(
            ((contestant, concept) for concept, contestant in seats if contestant is not None),
            key=lambda pair: pair[0].place,
        )
        self.contestants = [contestant for contestant, _ in placed]
        self._contenders = {
            one.uid: Contender(one.uid, concept, one.version, one.learns, one.by) for one, concept in placed
        }
        self._comparisons = [] if self._champion is None else self._pairs(self._champion)

    def _uid(self) -> int:
        self._uids += 1
        return self._uids


def _differs(role: Role, learns: bool) -> bool:
    """Return True if a contestant's arrays are not (or no longer) those of its version."""
    return learns or role == "candidate"
