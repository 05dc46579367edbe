"""Who answers and who shadows: the champion, the frozen start, the previous champion, the challengers.

The roster only moves contestants between roles; it never decides. Which question the gate is asked about whom
follows from the roles: in `gated` mode every challenger, and the previous champion, is a candidate for the
champion's place; in `live` mode the champion learns as it serves, and is itself the candidate that must not get
worse than the last good version, which waits in the role "previous".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from everlearn.model import Model, copied, copy, prefixed, restore, within
from everlearn.records import Arrays

Role = Literal["champion", "frozen", "previous", "challenger", "fresh"]
Move = Literal["promote", "reject", "rollback", "confirm"]


@dataclass(slots=True)
class Contestant:
    """A model in a role. `uid` is never used twice; `version` is where its arrays came from.

    `question` is the gate's evidence about it as a candidate, None until it is first asked.
    """

    uid: int
    role: Role
    version: str
    model: Model
    learns: bool
    question: Arrays | None = None


class Roster:
    """The contestants of one loop."""

    def __init__(self, live: bool = False) -> None:
        self.live = live
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

    @property
    def challenger(self) -> Contestant:
        """The model that learns from every example: the first challenger, or the live champion."""
        return self.find("challenger") or self.champion

    def learning(self) -> int:
        return sum(one.learns for one in self.contestants)

    def questions(self) -> list[tuple[Contestant, Contestant]]:
        """What the gate is asked: pairs (candidate, reference)."""
        champion = self.champion
        pairs = [(one, champion) for one in self.contestants if one.role in ("challenger", "fresh")]
        previous = self.find("previous")
        if previous is not None:
            pairs.append((champion, previous) if self.live else (previous, champion))
        return pairs

    def move(self, candidate: Contestant, verdict: Literal["promote", "reject"]) -> Move:
        """What a verdict on `candidate` means for the roster."""
        if candidate.role == "previous":
            return "rollback" if verdict == "promote" else "confirm"
        if candidate.role == "champion":
            return "promote" if verdict == "promote" else "rollback"
        return verdict

    def promote(self, candidate: Contestant, version: str) -> None:
        """`candidate`, stored as `version`, becomes champion; the old champion stays in shadow as "previous"."""
        champion = self.champion
        kept = copy(candidate.model)
        if self.live:
            self._drop("previous")
            self._join("previous", version, kept, learns=False)
            if candidate is not champion:
                self.contestants.remove(champion)
                candidate.role = "champion"
        else:
            self._drop("previous")
            champion.role = "previous"
            self._join("champion", version, kept, learns=False)
            if candidate.role == "fresh":
                self._drop("challenger")
                candidate.role = "challenger"
        candidate.version = version
        self._ask_anew()

    def install(self, version: str, arrays: Arrays, keep: bool) -> None:
        """Arrays of `version` become the champion's. `keep`: the old champion stays in shadow as "previous"."""
        champion = self.champion
        if self.live:
            self.restart(champion, arrays, version)
            self._drop("previous")
            self._join("previous", version, copy(champion.model), learns=False)
        else:
            model = copy(champion.model)
            restore(model, arrays)
            self._drop("previous")
            if keep:
                champion.role = "previous"
            else:
                self.contestants.remove(champion)
            self._join("champion", version, model, learns=False)
        self._ask_anew()

    def challenge(self, version: str, model: Model) -> Contestant:
        """A fresh challenger joins, and learns from now on."""
        return self._join("fresh", version, model, learns=True)

    def reject(self, candidate: Contestant) -> None:
        """A fresh challenger leaves; the standing one starts again from the champion."""
        if candidate.role == "fresh":
            self.contestants.remove(candidate)
        else:
            self.restart(candidate, self.champion.model.arrays, self.champion.version)

    def restart(self, contestant: Contestant, arrays: Arrays, version: str) -> None:
        """Give a contestant other arrays; as it is no longer who it was, it gets a new uid and new evidence."""
        restore(contestant.model, arrays)
        contestant.version = version
        contestant.uid = self._uid()
        contestant.question = None

    def confirm(self) -> None:
        """The previous champion was shown to be worse: it leaves the shadow."""
        self._drop("previous")

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything needed to restore the roster: arrays, and a header of plain values."""
        arrays: Arrays = {}
        header: dict[str, Any] = {"uids": self._uids, "contestants": []}
        owners: dict[int, int] = {}  # models that several roles share are stored once
        for one in self.contestants:
            owner = owners.setdefault(id(one.model), one.uid)
            if owner == one.uid:
                arrays |= prefixed(f"model/{one.uid}/", one.model.arrays)
            if one.question is not None:
                arrays |= prefixed(f"question/{one.uid}/", one.question)
            header["contestants"].append(
                {
                    "uid": one.uid,
                    "role": one.role,
                    "version": one.version,
                    "learns": one.learns,
                    "model": owner,
                    "asked": one.question is not None,
                }
            )
        return arrays, header

    def load(self, arrays: Arrays, header: dict[str, Any], make: Callable[[], Model]) -> None:
        """Restore what `state` gave; `make` builds an untrained model."""
        models: dict[int, Model] = {}
        self.contestants = []
        for entry in header["contestants"]:
            if entry["model"] not in models:
                model = make()
                restore(model, within(arrays, f"model/{entry['model']}/"))
                models[entry["model"]] = model
            question = copied(within(arrays, f"question/{entry['uid']}/")) if entry["asked"] else None
            model = models[entry["model"]]
            self.contestants.append(
                Contestant(entry["uid"], entry["role"], entry["version"], model, entry["learns"], question)
            )
        self._uids = header["uids"]

    def _join(self, role: Role, version: str, model: Model, learns: bool) -> Contestant:
        one = Contestant(self._uid(), role, version, model, learns)
        self.contestants.append(one)
        return one

    def _drop(self, role: Role) -> None:
        self.contestants = [one for one in self.contestants if one.role != role]

    def _ask_anew(self) -> None:
        for one in self.contestants:
            one.question = None

    def _uid(self) -> int:
        self._uids += 1
        return self._uids
