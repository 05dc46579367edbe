"""Control: a heater that fouls half-way, and a controller that keeps learning what its heater does.

    python examples/control.py

A room loses warmth to the outside, and a heater with eleven settings warms it. Before each step the loop predicts the
next temperature for every setting, and the controller takes the one that comes nearest to the set point. What follows
is the label of the prediction that was acted on. A second controller learned the first quarter the same way, and then
stopped learning. Half-way the heater loses more than half of its power.
"""

from __future__ import annotations

import argparse
import random
import tempfile

import everlearn as el

SET_POINT = 21.0
SETTINGS = [number / 10 for number in range(11)]
SCHEMA = {
    "label": "next",
    "task": "regression",
    "fields": {"now": "numeric", "outside": "numeric", "heat": "numeric"},
}


class Room:
    """A room with a heater; `step` moves it on by ten minutes."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.now, self.outside = 15.0, 5.0
        self.power, self.leak = 6.0, 0.12

    def foul(self) -> None:
        """Take more than half of the power."""
        self.power = 2.5

    def step(self, heat: float) -> float:
        """Heat for ten minutes; return the temperature."""
        self.now += self.power * heat - self.leak * (self.now - self.outside) + self._draw.gauss(0.0, 0.05)
        self.outside = min(max(self.outside + self._draw.gauss(0.0, 0.3), -5.0), 12.0)
        return self.now


def controlled(steps: int, learns_until: int) -> list[float]:
    """Return the distance from the set point after each step; labels are sent until step `learns_until`."""
    room, far = Room(seed=4), []
    settings = {"schema": SCHEMA, "model": {"family": "linear"}, "feedback": {"window": 3600.0}}
    with tempfile.TemporaryDirectory() as folder, el.open(settings, home=f"{folder}/room.home") as loop:
        for step in range(steps):
            if step == steps // 2:
                room.foul()
            state = {"now": [room.now] * len(SETTINGS), "outside": [room.outside] * len(SETTINGS), "heat": SETTINGS}
            answers = loop.predict_many(state)
            nearest = min(range(len(SETTINGS)), key=lambda i: abs(answers["value"][i] - SET_POINT))
            chosen = nearest if step > 30 else step % len(SETTINGS)  # tries every setting first
            temperature = room.step(SETTINGS[chosen])
            if step < learns_until:
                loop.feedback(answers["id"][chosen], label=temperature)
            far.append(abs(temperature - SET_POINT))
    return far


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    for name, until in (("learns on", steps), ("stopped learning", steps // 4)):
        far = controlled(steps, until)
        before, after = far[steps // 4 : steps // 2], far[-steps // 4 :]
        print(f"{name}: degrees from the set point before the fault {mean(before):.2f}, at the end {mean(after):.2f}")


if __name__ == "__main__":
    main()
