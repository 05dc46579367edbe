"""The models of one loop: the champion, the good version behind it, the challengers and the baselines.

    champion     answers; learns as it serves, or is frozen
    good         one frozen version to go back to, or None
    challengers  compared with the champion; each learns, or is a version put in shadow (`learns` is False)
    baselines    frozen and scored. No gate promotes one, but the guard may roll back to it: the frozen start today

The gate compares learners: each challenger is judged on what it predicted before each label, and learns on. A champion
that learns is compared with the good version by the guard. With `snapshots` (`gate.promote = "snapshot"`) nothing that
learns takes the seat: a learning challenger nominates a frozen `snapshot` of itself, and the gate judges that.

One rule covers every change of the seat: a model that takes the seat learns if the mode is `live` or if it was promoted
as a learner; otherwise it serves frozen, and a copy of it challenges unless the loop keeps a challenger already. An
untrained model serves only until the first trained one exists; see `keep_good` and `seat_first`.

The roster moves contestants and never decides: `gate/policy.py` decides, `loop/transitions.py` carries it out.
Contestants may be of different families: each has the family of its version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everlearn.gate.policy import By, Concept, Contender
from everlearn.model import Model, copied, copy, restore, within
from everlearn.records import Arrays
from everlearn.serve.contestant import UNKNOWN, Contestant, Progress, Role, Trial
from everlearn.serve.isolation import IsolatedModel
from everlearn.serve.roster_entries import differs, written
from everlearn.spec import GATE_LAYOUT


class Roster:
    """The contestants of one loop. `contestants` is a flat view of them all, snapshots too, in a stable order.

    `untrained` is true until something trained exists. `serves_learner` is true if the seat is that of a model that
    learns as it serves. `rollbacks` are the numbers of examples scored before the last rollbacks of such a model.
    """

    def __init__(
        self, live: bool = False, columns: int = 0, layout: int = GATE_LAYOUT, snapshots: bool = False
    ) -> None:
        self.live, self.layout, self.snapshots = live, layout, snapshots
        self.untrained = self.serves_learner = False
        self.rollbacks: list[int] = []
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

        A version that is not `trained` is not good, and serves as a learner unless only snapshots may serve.
        """
        frozen = copy(model)
        self.untrained = self.layout > 1 and not trained
        self.good, self.challengers = None, []
        self.baselines = [self._new(version, frozen)]
        if self.live or (self.untrained and not self.snapshots):
            self.good = None if self.untrained else self._new(version, frozen)
            self._seat(self._new(version, model, learns=True))
        else:
            self._seat(self._new(version, frozen))
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
        """The challenger that the loop itself keeps beside a frozen champion; None once it took the seat, or failed."""
        return next((challenger for challenger in self.challengers if challenger.by == "loop"), None)

    @property
    def challenger(self) -> Contestant:
        """The model that learns from every example: the standing challenger, else the champion."""
        return self.standing or self.champion

    @property
    def canary(self) -> Contestant | None:
        """The contestant that may answer a share of the traffic: the oldest challenger that learns.

        With `snapshots` it is the snapshot of the standing challenger.
        """
        if self.snapshots:
            return self.standing.snapshot if self.standing is not None else None
        return next((challenger for challenger in self.challengers if challenger.learns), None)

    def frozen_start(self) -> Contestant:
        """Return the first baseline, a model that never learned since the start; the champion where it is gone."""
        return self.baselines[0] if self.baselines else self.champion

    def scored(self) -> dict[str, int]:
        """Return the uid of each contestant whose metrics are kept, by the word that names its curve."""
        scored = {"champion": self.champion.uid}
        if self.serves_learner or self.standing is not None:
            scored["challenger"] = self.challenger.uid
        if self.baselines and not self.untrained:
            scored["frozen"] = self.baselines[0].uid
        return scored

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
        if self.layout == 1 or not self.serves_learner:
            known = (champion.version, good.version if good is not None else "")
            pairs += [(baseline, champion) for baseline in self.baselines if baseline.version not in known]
        if good is not None:
            pairs.append((champion, good) if self.serves_learner else (good, champion))
        return pairs

    def _is_candidate(self, contestant: Contestant) -> bool:
        """Return True for a contestant that may be promoted: every challenger; with snapshots, each frozen one."""
        concept = self.concept(contestant)
        return concept == "snapshot" or (concept == "challenger" and not (self.snapshots and contestant.learns))

    # ---- challengers -----------------------------------------------------------------------------------------------

    def challenge(self, version: str, model: Model, by: By = "user") -> Contestant:
        """Add a challenger that learns from now on."""
        return self._challenge(self._new(version, model, learns=True, by=by))

    def shadow(self, version: str, model: Model) -> Contestant:
        """Add a version that does not learn, to be compared with the champion."""
        return self._challenge(self._new(version, model, by="user"))

    def nominate(self, learned: Progress = UNKNOWN) -> None:
        """With `snapshots`, give every learning challenger without one a snapshot of the model that it is now."""
        owners = [one for one in self.challengers if one.learns and one.snapshot is None and self.snapshots]
        for owner in owners:
            owner.snapshot = self._new(owner.version, owner.tried.twin())
            owner.snapshot.learned = learned
        if owners:
            self._arrange()

    def withdraw(self, snapshot: Contestant) -> None:
        """Remove a snapshot; its challenger may nominate another."""
        owner = self.owner(snapshot)
        if owner is not None:
            owner.snapshot = None
        self._arrange()

    def dismiss(self, challenger: Contestant) -> None:
        """Remove a challenger, and its snapshot with it."""
        self.challengers = [other for other in self.challengers if other is not challenger]
        self._arrange()

    def reject(self, candidate: Contestant) -> None:
        """Remove a candidate; if nothing else learns, it stays without its evidence.

        A snapshot takes its challenger along, unless that is the standing one.
        """
        owner = self.owner(candidate)
        if owner is None:
            others = [one for one in self.contestants if one.learns and one is not candidate]
            if candidate.learns and not others:
                candidate.trial = None
                return
            self.dismiss(candidate)
            self._name_standing()
            return
        self.withdraw(candidate)
        if owner.by != "loop":
            self.dismiss(owner)

    def restart(self, contestant: Contestant, model: Model, version: str) -> None:
        """Give a contestant another model. It is not the same one any more, so it gets a new uid and no evidence."""
        contestant.model, contestant.version = model, version
        contestant.uid = self._uid()
        contestant.snapshot = contestant.trial = None
        contestant.noticed = -1
        self._arrange()

    def rename(self, contestant: Contestant, version: str) -> None:
        """Note that a contestant is another version now; it keeps its uid and its evidence."""
        contestant.version = version
        self._arrange()

    # ---- the seat --------------------------------------------------------------------------------------------------

    def promote(self, candidate: Contestant, version: str, previous: str = "") -> bool:
        """Seat `candidate`, stored as `version`. Live, a frozen copy of it becomes good; gated, the old champion does.

        `previous` is the version that an old champion which learned was stored as. A live champion that is promoted
        keeps its seat. Return True if a copy of a frozen winner learns on as a challenger from now. Raises
        ModelFailure, and changes nothing, where a model cannot be copied.
        """
        old, owner = self.champion, self.owner(candidate)
        learns = self.live or candidate.learns
        challenges = self._lacks_learner(learns, candidate)
        twin = candidate.tried.twin() if self.live or challenges else None
        if self.live and twin is not None:
            self.good = self._new(version, twin)
        else:
            self.good = self._frozen(old, previous)
            if owner is not None:
                self._win(owner, version)
        self.challengers = [challenger for challenger in self.challengers if challenger is not candidate]
        if twin is not None and challenges:
            self.challengers.append(self._new(version, twin, learns=True))
        candidate.version, candidate.learns, candidate.by = version, learns, "loop"
        self._seat(candidate)
        self._leave_untrained(version)
        self.reset_evidence()
        return challenges

    def install(
        self, version: str, model: Model, keep: bool, uid: int = 0, previous: str = "", pause: bool = False
    ) -> bool:
        """Seat `model`, which is `version`. Return True if a copy of it learns on from now, other than in `live` mode.

        Live, the champion becomes a copy that learns on, and `model` is good. Gated, or with `pause`, `model` serves
        frozen; the old champion (stored as `previous` if it learned) becomes good if `keep`, else nothing is good. The
        untrained start learns on in the seat as it did before. Raises ModelFailure, and changes nothing, where there
        can be no copy; `uid` says whose model it is.
        """
        champion = self.champion
        starts_again = self.untrained and self.serves_learner and any(one.version == version for one in self.baselines)
        if (self.live and not pause) or starts_again:
            learner = IsolatedModel(model, uid).twin()
            self.restart(champion, learner, version)
            champion.learns = True
            self._seat(champion)
            self._leave_untrained(version)
            self.good = None if self.untrained else self._new(version, model)
            self.challengers = [challenger for challenger in self.challengers if challenger.by != "loop"]
            self.reset_evidence()
            return not self.live
        copied = IsolatedModel(model, uid).twin() if self._lacks_learner(False) else None
        self._leave_untrained(version)
        self.good = self._frozen(champion, previous) if keep and not self.untrained else None
        self._seat(self._new(version, model))
        if copied is not None:
            self.challengers.append(self._new(version, copied, learns=True))
        self.reset_evidence()
        return copied is not None

    def is_first_champion(self, model: Model) -> bool:
        """Return True for the model of a champion that started untrained, before the first trained version."""
        return self.untrained and self.serves_learner and model is self.champion.model

    def keep_good(self, version: str) -> None:
        """Keep a frozen copy of a champion that learns, stored as `version`, as good; the untrained start leaves.

        Challengers keep their evidence: the champion is the same model as before. Raises ModelFailure, and changes
        nothing, where it cannot be copied.
        """
        champion = self.champion
        self.good = self._new(version, champion.tried.twin())
        self._leave_untrained(version)
        champion.version, champion.trial = version, None
        self._arrange()

    def seat_first(self, version: str) -> None:
        """Seat a frozen copy of the model that learned, stored as `version`, in place of the untrained start.

        The model learns on as the challenger of the loop. Raises ModelFailure, and changes nothing, where it cannot be
        copied.
        """
        learner = self.challenger
        frozen = self._new(version, learner.tried.twin())
        if learner is self.champion:
            self.challengers.append(learner)
        learner.version, learner.by = version, "loop"
        self._seat(frozen)
        self._leave_untrained(version)
        self.reset_evidence()

    def seat_learner(self, version: str) -> None:
        """Let the standing challenger, stored as `version`, take the seat and learn on there; the champion is good.

        The champion is frozen. Where nothing stands beside it, a copy of it learns in the seat. Raises ModelFailure,
        and changes nothing, where it cannot be copied.
        """
        frozen, learner = self.champion, self.standing
        if learner is None:
            learner = self._new(version, frozen.tried.twin(), learns=True)
        learner.version, learner.by, learner.snapshot = version, "loop", None
        self.good = None if self.untrained else frozen
        self.challengers = [challenger for challenger in self.challengers if challenger.by != "loop"]
        self._seat(learner)
        self._leave_untrained(version)
        self.reset_evidence()

    def confirm(self, candidate: Contestant) -> None:
        """Note that a frozen contestant is worse than the champion: good leaves, a baseline is compared again."""
        if candidate is self.good:
            self.good = None
        candidate.trial = None
        self._arrange()

    def expel(self, contestant: Contestant) -> None:
        """Remove a contestant that failed, except the champion; the oldest learner left becomes the standing one."""
        if self.owner(contestant) is not None:
            self.reject(contestant)
        else:
            self.good = None if contestant is self.good else self.good
            self.baselines = [baseline for baseline in self.baselines if baseline is not contestant]
            self.dismiss(contestant)
        self._name_standing()

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
        arrays, entries = written(self)
        some: dict[str, Any] = {"untrained": True} if self.untrained else {}
        some |= {"rollbacks": list(self.rollbacks)} if self.rollbacks else {}
        return arrays, {"uids": self._uids, "contestants": entries, **some}

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
            other = differs(role, learns)
            model = shared.get(version) if not other else None
            if model is None:
                model, stored = build(version), entry.get("stored", not other)
                restore(model, fetch(version) if stored else within(arrays, f"model/{uid}/"))
            if not other:
                shared[version] = model
            contestant = Contestant(uid, version, model, learns, columns=self._columns, place=place)
            contestant.learned, contestant.noticed = Progress(*entry.get("learned", UNKNOWN)), entry.get("noticed", -1)
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
        self.untrained, self.rollbacks = header.get("untrained", False), list(header.get("rollbacks", []))
        self._arrange()

    def _place(self, role: Role, contestant: Contestant, by: By) -> None:
        """Put a contestant where its role says."""
        match role:
            case "champion":
                self._seat(contestant)
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

    def _seat(self, contestant: Contestant) -> None:
        self._champion, self.serves_learner = contestant, contestant.learns

    def _frozen(self, old: Contestant, version: str) -> Contestant:
        """Return a former champion as a contestant that stays as it is; one that learned was stored as `version`."""
        return self._new(version, old.model) if old.learns else old

    def _lacks_learner(self, champion_learns: bool, but: Contestant | None = None) -> bool:
        """Return True if no challenger of the loop, other than `but`, would learn beside a champion that does not."""
        if self.snapshots or champion_learns:
            return False
        return not any(challenger.by == "loop" and challenger is not but for challenger in self.challengers)

    def _name_standing(self) -> None:
        """Beside a frozen champion, let the oldest challenger that learns be the one that the loop keeps."""
        learners = [challenger for challenger in self.challengers if challenger.learns]
        if not self.serves_learner and self.standing is None and learners:
            learners[0].by = "loop"
            self._arrange()

    def _leave_untrained(self, version: str) -> None:
        """Note that `version` is kept: it is trained unless it is the start."""
        if self.untrained and not any(baseline.version == version for baseline in self.baselines):
            self.untrained, self.baselines = False, []

    def owner(self, snapshot: Contestant) -> Contestant | None:
        """Return the challenger that nominated a snapshot; None for any other contestant."""
        return next((challenger for challenger in self.challengers if challenger.snapshot is snapshot), None)

    def _arrange(self) -> None:
        """Renew the flat view, which is read for every prediction and changes seldom."""
        self.challengers.sort(key=lambda challenger: challenger.place)
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
