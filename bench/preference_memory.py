"""Resident memory of a loop that learns from preferences: flat over many labels, or not.

    python bench/preference_memory.py [--labels 10000] [--every 500] [--full]

The demo's model learns in one process, as a learner does: questions are recorded and judged, rounds are taken, and
decisions and checkpoints are written. The questions are 256 that were asked once at the start, recorded again under new
ids. Rounds are short (one step on 4 prompts with 4 candidates), so that the time goes into labels; with `--full` they
are those of the demo. After the first tenth of the labels, in which arrays, kernels and pages of the log are touched
for the first time, memory must stay within 10 %.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from everlearn.app.learner import memory
from everlearn.cli import preference_demo as demo
from everlearn.data import service_desk, tiny_model
from everlearn.families.preference import asking, text
from everlearn.loop.loop import Loop

QUESTIONS, BOUND = 256, 1.10
SHORT = {"steps": 1, "prompts": 4, "candidates": 4}


def measured(folder: Path, labels: int, improve: dict[str, int], every: int) -> list[tuple[int, float, float]]:
    """Return labels, bytes in MiB and seconds at each mark."""
    tiny_model.make(folder / "model", 0)
    settings = demo.settings(folder / "model", 0, improve=improve)
    found, began = [], time.perf_counter()
    with Loop(settings, folder / "home") as loop:
        model, draw = demo.champion(loop), np.random.default_rng(0)
        asked = []
        for number in range(QUESTIONS):
            complaint = service_desk.COMPLAINTS[number % len(service_desk.COMPLAINTS)]
            prompt = text.render(model.tokenizer, complaint)
            asked.append((complaint, asking.ask(model, prompt, (0, number), group=complaint)))
        for done in range(1, labels + 1):
            complaint, question = asked[done % QUESTIONS]
            first, second = (question.answers[place].text for place in question.pair)
            id = loop.record(question, {"prompt": complaint}).id
            better = service_desk.prefers_first(complaint, first, second, draw)
            loop.judge(id, 0 if better else 1, source=demo.ANNOTATOR)
            if done % every == 0:
                gc.collect()
                found.append((done, memory() / 2**20, time.perf_counter() - began))
                print(f"  {done:7,} labels  {found[-1][1]:8.1f} MiB  {found[-1][2]:7.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--full", action="store_true", help="rounds as long as in the demo")
    parser.add_argument("--every", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = measured(Path(folder), given.labels, {} if given.full else SHORT, given.every)
    warm = [mib for done, mib, _ in found if done >= given.labels / 10]
    grown = warm[-1] / warm[0]
    print(f"from {warm[0]:.1f} to {warm[-1]:.1f} MiB, at most {max(warm):.1f}: {'flat' if grown <= BOUND else 'GROWS'}")
    sys.exit(grown > BOUND)


if __name__ == "__main__":
    main()
