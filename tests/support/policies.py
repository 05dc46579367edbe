"""A model of pairs that reports about a policy that it does not have, as its tokens say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.records import Arrays, Batch, Floats, Singles
from everlearn.schema import pairs

ALARM, TURN = 30, 31  # tokens: an answer with one raises an alarm, or says that its group turned


class Reports:
    """A model that predicts 1/2, counts lessons, and raises an alarm or finds drift where the first answer says so."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        self.arrays: Arrays = {"seen": np.zeros(1), "alarm": np.zeros(1), "groups": np.zeros((4, 2))}

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 2), 0.5, np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        for row in range(len(batch)):
            self.arrays["seen"] += 1.0
            ids = batch.indices[batch.indptr[row] : batch.indptr[row + 1]]
            if ALARM in ids:
                self.arrays["alarm"][:] = 1.0
            if TURN in ids:
                table = self.arrays["groups"]
                digest = batch.dense[row, pairs.GROUP]
                at = int(np.flatnonzero((table[:, 0] == digest) | (table[:, 0] == 0.0))[0])
                table[at] = digest, self.arrays["seen"][0]
        return self.predict(batch)

    def alarms(self, held: Arrays | None) -> dict[str, str]:
        if self.arrays["alarm"][0]:
            return {"kl": "KL to the anchor: too far"}
        return {"duels": "0 duels"} if held is not None and not self.arrays["seen"][0] else {}

    def drifted(self) -> dict[int, int]:
        return {int(digest): int(label) for digest, label in self.arrays["groups"] if digest}

    def measures(self) -> dict[str, Any]:
        return {"labels": float(self.arrays["seen"][0]), "kinds": {int(pairs.number("people")): 3.0}}
