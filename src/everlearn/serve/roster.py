"""Who answers and who shadows: the champion, the frozen start, the previous champion, challengers, candidates.

The roster only moves contestants between roles; it never decides. Which question the gate is asked about whom
follows from the roles. In `gated` mode a challenger learns in shadow, and what may take the champion's place is a
candidate: a snapshot of the challenger that does not learn any more, because a model that keeps learning can be far
better than any snapshot of it, and what is promoted must be what was tested. In `live` mode the champion learns as
it serves, and is itself the candidate that must not get worse than the last good version, which waits in the role
"previous". In both, the previous champion and the frozen start are asked about, too: should one of them turn out to
be better than what serves, the guard rolls back to it. A version that somebody put in shadow does not learn either.

Contestants may be of different families: each is of the family of its version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from everlearn.model import Model, copied, copy, prefixed, restore, within
from everlearn.records import Arrays
from everlearn.serve.isolation import IsolatedModel

Role = Literal["champion", "frozen", "previous", "challenger", "fresh", "candidate", "shadow"]
Move = Literal["promote", "reject", "rollback", "confirm"]  # confirm: the champion was right to replace it


class Progress(NamedTuple):
    """What some arrays have learned: everything up to this position of the log, and up to this row of files."""

    log: int
    row: int


UNKNOWN = Progress(-1, -1)


@dataclass(slots=True)
class Trial:
    """What is known of a candidate: the gate's evidence, its metrics, and on how many examples it was tested."""

    evidence: Arrays
    metrics: Arrays
    tested: int = 0


@dataclass(slots=True)
class Contestant:
    """A model in a role. `uid` is never used twice; `version` is where its arrays came from.

    `trial` is None until the gate is first asked about it; `of` is the uid of the challenger that a candidate is a
    snapshot of. `learned` is meant for one that does not learn any more. `columns` is how wide answers are (0: any).
    """

    uid: int
    role: Role
    version: str
    model: Model
    learns: bool
    of: int = 0
    trial: Trial | None = None
    learned: Progress = UNKNOWN
    columns: int = 0

    @property
    def tried(self) -> IsolatedModel:
        """The model as it must be asked while a loop folds: what it does wrong is told as its fault."""
        return IsolatedModel(self.model, self.uid, self.columns)


class Roster:
    """The contestants of one loop."""

    def __init__(self, live: bool = False, columns: int = 0) -> None:
        self.live = live
        self._columns = columns
        self.contestants: list[Contestant] = []
        self._uids = 0

    def start(self, version: str, model: Model) -> None:
        """Everyone begins as the same version; `model` goes on learning, copies of it serve and stay frozen."""
        frozen = copy(model)
        self.contestants = []
        self._join("frozen", version, frozen, learns=False)
        if self.live:
            self._join("previous", version, frozen, learns=False)
            self._join("champion", version, model, learns=True)
        else:
            self._join("champion", version, frozen, learns=False)
            self._join("challenger", version, model, learns=True)

    @property
    def champion(self) -> Contestant:
        return next(one for one in self.contestants if one.role == "champion")

    def find(self, role: Role) -> Contestant | None:
        return next((one for one in self.contestants if one.role == role), None)

    def known(self, uid: int) -> Contestant | None:
        return next((one for one in self.contestants if one.uid == uid), None)

    @property
    def challenger(self) -> Contestant:
        """The model that learns from every example: the first challenger, or the live champion.

        Where the last challenger was withdrawn nobody learns, and it is the champion as well.
        """
        return self.find("challenger") or self.champion

    @property
    def canary(self) -> Contestant | None:
        """Who may answer a share of the traffic: what the first challenger has nominated; live, the first fresh one."""
        if self.live:
            return self.find("fresh")
        first = self.challenger.uid
        return next((one for one in self.contestants if one.role == "candidate" and one.of == first), None)

    def contending(self) -> int:
        """How many there are of those whose number is bounded: all that learn, and the versions in shadow."""
        return sum(one.learns or one.role == "shadow" for one in self.contestants)

    def questions(self) -> list[tuple[Contestant, Contestant]]:
        """What the gate is asked: pairs (candidate, reference)."""
        champion = self.champion
        asked = ("fresh", "shadow") if self.live else ("candidate", "shadow")
        pairs = [(one, champion) for one in self.contestants if one.role in asked]
        frozen, previous = self.find("frozen"), self.find("previous")
        if frozen is not None and frozen.version not in (champion.version, previous.version if previous else ""):
            pairs.append((frozen, champion))
        if previous is not None:
            pairs.append((champion, previous) if self.live else (previous, champion))
        return pairs

    def move(self, candidate: Contestant, verdict: Literal["promote", "reject"]) -> Move:
        """What a verdict on `candidate` means for the roster."""
        if candidate.role in ("previous", "frozen"):
            return "rollback" if verdict == "promote" else "confirm"
        if candidate.role == "champion":
            return "promote" if verdict == "promote" else "rollback"
        return verdict

    def nominate(self, learned: Progress = UNKNOWN) -> None:
        """Gated: every challenger without a candidate gets one, a snapshot of what it is now."""
        nominated = {one.of for one in self.contestants if one.role == "candidate"}
        for one in [] if self.live else list(self.contestants):
            if one.learns and one.uid not in nominated:
                joined = self._join("candidate", one.version, one.tried.twin(), learns=False, of=one.uid)
                joined.learned = learned

    def withdraw(self, candidate: Contestant) -> None:
        """The candidate leaves; its challenger may nominate another."""
        self.contestants.remove(candidate)

    def promote(self, candidate: Contestant, version: str) -> None:
        """`candidate`, stored as `version`, becomes champion; the old champion stays in shadow as "previous"."""
        champion = self.champion
        kept = candidate.tried.twin() if self.live else candidate.model
        self._drop("previous")
        if self.live:
            self._join("previous", version, kept, learns=False)
            if candidate is not champion:
                self.contestants.remove(champion)
        else:
            champion.role = "previous"
            learner = next((one for one in self.contestants if one.uid == candidate.of), None)
            if learner is not None:  # a version in shadow is nobody's snapshot
                learner.version = version
                if learner.role == "fresh":
                    self._drop("challenger")
                    learner.role = "challenger"
        candidate.role, candidate.version, candidate.of, candidate.learns = "champion", version, 0, self.live
        self.ask_anew()

    def install(self, version: str, model: Model, keep: bool, uid: int = 0) -> None:
        """`model`, which is `version`, becomes the champion. `keep`: the old one stays in shadow as "previous".

        Live, the champion is a copy of it, which goes on learning. Where there can be no copy nothing is changed, and
        ModelFailure is raised; `uid` says whose model it is.
        """
        champion = self.champion
        learner = IsolatedModel(model, uid).twin() if self.live else model
        self._drop("previous")
        if self.live:
            self.restart(champion, learner, version)
            self._join("previous", version, model, learns=False)
        else:
            if keep:
                champion.role = "previous"
            else:
                self.contestants.remove(champion)
            self._join("champion", version, model, learns=False)
        self.ask_anew()

    def challenge(self, version: str, model: Model) -> Contestant:
        """A fresh challenger joins, and learns from now on."""
        return self._join("fresh", version, model, learns=True)

    def shadow(self, version: str, model: Model) -> Contestant:
        """A version joins that does not learn, to be compared with the champion."""
        return self._join("shadow", version, model, learns=False)

    def dismiss(self, contestant: Contestant) -> None:
        """A fresh challenger or a version in shadow leaves, with what it has nominated."""
        self.contestants = [one for one in self.contestants if one is not contestant and one.of != contestant.uid]

    def expel(self, one: Contestant) -> None:
        """Anyone but the champion leaves, with all it has nominated; a fresh challenger takes the first one's place."""
        if one.role == "candidate":
            self.reject(one)
        else:
            self.dismiss(one)
        fresh = self.find("fresh")
        if not self.live and fresh is not None and self.find("challenger") is None:
            fresh.role = "challenger"

    def reject(self, candidate: Contestant) -> None:
        """The candidate leaves, and with it the challenger that it is a snapshot of, if that was a fresh one."""
        self.contestants = [
            one
            for one in self.contestants
            if one is not candidate and not (one.role == "fresh" and one.uid == candidate.of)
        ]

    def restart(self, contestant: Contestant, model: Model, version: str) -> None:
        """Give a contestant another model; as it is no longer who it was, it gets a new uid and new evidence."""
        contestant.model, contestant.version = model, version
        self.contestants = [one for one in self.contestants if one.of != contestant.uid]
        contestant.uid = self._uid()
        contestant.trial = None

    def better(self, candidate: Contestant) -> Contestant:
        """Who is to serve when the guard rolls back: the candidate, or, where that is the live champion itself, the
        last good version."""
        if candidate.role != "champion":
            return candidate
        return next(one for one in self.contestants if one.role == "previous")

    def confirm(self, candidate: Contestant) -> None:
        """A former champion was shown to be worse: the previous one leaves, the frozen start is asked about anew."""
        if candidate.role == "previous":
            self._drop("previous")
        candidate.trial = None

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything needed to restore the roster: arrays, and a header of plain values.

        A contestant that never learns is its version, which is stored already.
        """
        arrays: Arrays = {}
        contestants: list[dict[str, Any]] = []
        for one in self.contestants:
            if _is_own(one.role, one.learns):
                arrays |= prefixed(f"model/{one.uid}/", one.model.arrays)
            if one.trial is not None:
                arrays |= prefixed(f"evidence/{one.uid}/", one.trial.evidence)
                arrays |= prefixed(f"metrics/{one.uid}/", one.trial.metrics)
            entry = {"uid": one.uid, "role": one.role, "version": one.version, "learns": one.learns, "of": one.of}
            tested = one.trial.tested if one.trial is not None else None
            contestants.append(entry | {"tested": tested, "learned": list(one.learned)})
        return arrays, {"uids": self._uids, "contestants": contestants}

    def load(
        self, arrays: Arrays, header: dict[str, Any], build: Callable[[str], Model], fetch: Callable[[str], Arrays]
    ) -> None:
        """Restore what `state` gave; `build` makes an untrained model like a version, `fetch` gives its arrays."""
        kept: dict[str, Model] = {}  # one model for all the contestants that are the same version
        self.contestants = []
        for entry in header["contestants"]:
            uid, role, version, learns = entry["uid"], entry["role"], entry["version"], entry["learns"]
            model = kept.get(version) if not _is_own(role, learns) else None
            if model is None:
                model = build(version)
                restore(model, within(arrays, f"model/{uid}/") if _is_own(role, learns) else fetch(version))
            if not _is_own(role, learns):
                kept[version] = model
            one = Contestant(uid, role, version, model, learns, entry["of"])
            one.learned, one.columns = Progress(*entry.get("learned", UNKNOWN)), self._columns
            if entry["tested"] is not None:
                evidence = copied(within(arrays, f"evidence/{uid}/"))
                one.trial = Trial(evidence, copied(within(arrays, f"metrics/{uid}/")), entry["tested"])
            self.contestants.append(one)
        self._uids = header["uids"]

    def _join(self, role: Role, version: str, model: Model, learns: bool, of: int = 0) -> Contestant:
        one = Contestant(self._uid(), role, version, model, learns, of, columns=self._columns)
        self.contestants.append(one)
        return one

    def _drop(self, role: Role) -> None:
        self.contestants = [one for one in self.contestants if one.role != role]

    def ask_anew(self) -> None:
        """The champion, or the gate, has changed: candidates go, and all evidence is about something that is gone."""
        self._drop("candidate")
        for one in self.contestants:
            one.trial = None

    def _uid(self) -> int:
        self._uids += 1
        return self._uids


def _is_own(role: Role, learns: bool) -> bool:
    """Whether a contestant's arrays are not (or no longer) those of its version."""
    return learns or role == "candidate"
