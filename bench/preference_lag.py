"""Time from a judgement to the adapter that serves it, in a real server with its generator, by the demo's model.

    python bench/preference_lag.py [--rounds 20] [--round 16] [--steps 8]

A client judges pairs of `/label/next` as the demo's annotator does. The label that completes a round is timed: from its
acknowledgement to the first chat whose event in the log was answered at a position from that label on, which is after
the round's steps. Chats of one token are asked all the time. Wanted: p50 2 s, p99 5 s.

A round is a unit of learning that nothing interrupts, so the lag is its length: `--round 32 --steps 16`, the defaults
of the family, takes as many steps for each label, in rounds twice as long as the demo's.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import numpy as np
import torch

from everlearn.app.supervisor import Server
from everlearn.cli import preference_demo as demo
from everlearn.data import service_desk, tiny_model
from everlearn.events import connect
from everlearn.records import Prediction, Preference
from everlearn.schema import question
from everlearn.spec import ServeSpec

BOUNDS = {0.5: 2.0, 0.99: 5.0}


class Client:
    """A client that labels and asks for chats, and looks into the log."""

    def __init__(self, server: Server) -> None:
        self.http = httpx.Client(base_url=server.url, timeout=120)
        self.log = connect(str(server.home / "log.sqlite"), tidy=False)
        self.draw = np.random.default_rng(0)

    def label(self) -> int:
        """Judge one pair as the simulated annotator does; return the position of the judgement."""
        pair = self.http.get("/label/next", params={"annotator": "simulated"}).raise_for_status().json()
        event = self.log.find(f"prediction:{pair['id']}")
        assert event is not None
        assert isinstance(event.payload, Prediction)
        asked = question.decode(event.payload.payload)
        complaint = str(event.payload.features["prompt"])
        first, second = (one.text for one in question.judged(asked))
        better = 0 if service_desk.prefers_first(complaint, first, second, self.draw) else 1
        side = "right" if (better == 1) != asked.swapped else "left"
        body = {"id": pair["id"], "annotator": "simulated", "verdict": side}
        before = self.log.end()
        self.http.post("/label/judge", json=body).raise_for_status()
        given = (event for event in self.log.read(before, 100) if isinstance(event.payload, Preference))
        return next(event.position for event in given if event.payload.id == pair["id"])

    def served(self) -> int:
        """Ask a chat of one token; return the position up to which the model that answered has learned."""
        body: dict[str, Any] = {"model": "everlearn", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        id = self.http.post("/v1/chat/completions", json=body).raise_for_status().json()["id"]
        event = self.log.find(f"prediction:{id}")
        assert event is not None
        assert isinstance(event.payload, Prediction)
        return event.payload.position


def lags(folder: Path, rounds: int, size: int, steps: int) -> list[float]:
    """Return the seconds of each round, the first of which is not counted."""
    tiny_model.make(folder / "model", 0)
    (folder / "prompts.txt").write_text("\n".join(service_desk.COMPLAINTS))
    spec = msgspec.structs.replace(
        demo.settings(folder / "model", 0, round=size, improve={"steps": steps, "rows": demo.ROWS}),
        prompts=str(folder / "prompts.txt"),
        serve=ServeSpec(port=0, workers=1),
    )
    found = []
    with Server(spec, folder / "home") as server:
        client = Client(server)
        for number in range(rounds + 1):
            for _ in range(size):
                position = client.label()
            began = time.perf_counter()
            while client.served() < position:
                time.sleep(0.02)
            if number:
                found.append(time.perf_counter() - began)
                print(f"  round {number:3}: {found[-1]:.2f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--round", type=int, default=demo.ROUND, help="labels of a round")
    parser.add_argument("--steps", type=int, default=demo.ROUND // 2, help="steps of a round")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = lags(Path(folder), given.rounds, given.round, given.steps)
    missed = False
    for share, bound in BOUNDS.items():
        value = float(np.quantile(found, share))
        missed |= value > bound
        print(f"p{share * 100:.0f} {value:.2f} s, wanted {bound:g} s{'  MISSED' if value > bound else ''}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
