"""Old skills and facts of a language model while it learns from preferences, with and without examples to imitate.

    python bench/preference_skills.py [--labels 1024] [--seeds 1]

A tiny model of the service desk is first taught two more things: to spell out the numbers one to nine after "next" (an
old skill, 45 prompts, of which a third is held out of the examples), and which town ten shops are in (facts). It then
learns from judged pairs as in the demo. Half-way, four shops move. The file of examples (`model.examples`) says so from
then on, and a loop that is opened with it starts another home from the policy so far.

    skill      share of held-out prompts that are answered rightly
    right      share of questions about shops answered with the town of that moment
    outdated   share answered with the town from which a shop has moved
    invented   share answered with anything else than a town where the shop is or was
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from everlearn.cli import preference_demo as demo
from everlearn.data import tiny_model
from everlearn.families.preference import asking, passes, sampling, text
from everlearn.families.preference.model import PreferenceModel
from everlearn.families.preference.policy import load_model, load_tokenizer
from everlearn.loop.loop import Loop

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHOPS = ["north", "south", "east", "west", "old", "new", "port", "hill", "park", "lake"]
TOWNS = ["Oslo", "Rome", "Bern", "Kiev", "Lima", "Cairo", "Paris", "Delhi", "Tokyo", "Quito", "Accra", "Dover"]
MOVED = 4  # shops that move half-way
STEPS, ANSWERS = 600, 24  # of teaching the skill and the facts
LIMIT = 16
DRAWS = 4  # answers to each question


class Probe(NamedTuple):
    """Shares of sampled answers; see the module."""

    skill: float
    right: float
    outdated: float
    invented: float


def skills() -> list[tuple[str, str]]:
    """Return the old skill: three numbers that follow each other, and the next two."""
    found = []
    for start in range(9):
        for length in range(1, 6):
            said = [NUMBERS[(start + i) % 9] for i in range(length)]
            after = [NUMBERS[(start + length + i) % 9] for i in range(2)]
            found.append((f"next {' '.join(said)}", " ".join(after)))
    return found


def facts(moved: bool) -> list[tuple[str, str]]:
    """Return the questions about shops and their towns, before or after some moved."""
    towns = [TOWNS[(i + 2) % len(TOWNS)] if moved and i < MOVED else TOWNS[i] for i in range(len(SHOPS))]
    return [(f"Where is the {shop} shop?", town) for shop, town in zip(SHOPS, towns, strict=True)]


def held_out(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the third of the skill that no file of examples holds."""
    return pairs[::3]


def tokens(tokenizer: Any, pair: tuple[str, str]) -> tuple[list[int], list[int]]:
    """Return a prompt and an answer as tokens."""
    return text.render(tokenizer, pair[0]), text.written(tokenizer, pair[1], (tokenizer.eos_token_id,))


def taught(folder: Path, seed: int, steps: int) -> None:
    """Teach the demo's model the skill and the facts, beside the language of the desk, and write it to a folder."""
    tiny_model.make(folder / "desk", seed)
    model, tokenizer = load_model(str(folder / "desk")), load_tokenizer(str(folder / "desk"))
    draw, optimizer = np.random.default_rng(seed), torch.optim.AdamW(model.parameters(), lr=2e-3)
    known = [*skills(), *facts(False) * 3]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        some = [tokens(tokenizer, known[i]) for i in draw.integers(len(known), size=ANSWERS)]
        ids, labels = tiny_model._batch(tokenizer, draw)  # the desk's language stays
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=torch.tensor(ids)).logits[:, :-1].flatten(0, 1), torch.tensor(labels)[:, 1:].flatten()
        )
        logp = passes.logprobs(model, [prompt for prompt, _ in some], [answer for _, answer in some])
        loss = loss - logp.sum() / sum(len(answer) for _, answer in some)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))


def probed(model: PreferenceModel, moved: bool, seed: int) -> Probe:
    """Sample answers to held-out prompts of the skill, and to all questions about shops."""

    def share(pairs: list[tuple[str, str]], right: Any) -> float:
        prompts = [text.render(model.tokenizer, prompt) for prompt, _ in pairs]
        seeds = np.random.default_rng(seed).integers(2**62, size=len(pairs)).tolist()
        found = sampling.generate_many(model.policy.module, prompts, DRAWS, seeds=seeds, limit=LIMIT, stop=model.stop)
        said = [[asking.spelled(model, one.ids).strip() for one in some] for some in found]
        return float(np.mean([right(pair, one) for pair, some in zip(pairs, said, strict=True) for one in some]))

    now, before = dict(facts(moved)), dict(facts(False))
    right = share(facts(moved), lambda pair, said: said == pair[1])
    outdated = share(facts(moved), lambda pair, said: said == before[pair[0]] != now[pair[0]])
    skill = share(held_out(skills()), lambda pair, said: said == pair[1])
    return Probe(skill, right, outdated, 1.0 - right - outdated)


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    """Write examples as JSON lines."""
    path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in pairs))
    return str(path)


def run(folder: Path, seed: int, labels: int, mixing: bool, steps: int) -> None:
    """Learn half of the labels, let shops move, learn the rest; print the probe at each mark."""
    practice = [one for one in skills() if one not in held_out(skills())]
    name = "with examples" if mixing else "without"
    model, began = folder / "model", time.perf_counter()
    first: list[list[str]] = []
    for half, moved in enumerate((False, True)):
        given = {"examples": write(folder / f"examples-{half}.jsonl", [*practice, *facts(moved)])} if mixing else {}
        settings = demo.settings(model, seed, improve={"steps": steps}, **given)
        with Loop(settings, folder / f"{name}-{half}.home") as loop:
            first = first or demo.answers(demo.champion(loop), 16, (seed, 9))
            show(name, half * labels // 2, moved, demo.champion(loop), seed, first, began)
            for done in demo.learn(loop, labels // 2, seed + 100 * half):
                if done % max(128, labels // 8) == 0 and done < labels // 2:
                    show(name, half * labels // 2 + done, moved, demo.champion(loop), seed, first, began)
            show(name, (half + 1) * labels // 2, moved, demo.champion(loop), seed, first, began)
            model = folder / f"{name}-{half}.model"
            demo.champion(loop).export(model)


def show(name: str, labels: int, moved: bool, model: PreferenceModel, seed: int, first: Any, began: float) -> None:
    """Print a row."""
    found, desk = probed(model, moved, seed), demo.measure(model, labels, first, seed)
    when = f"{labels:5,} labels{' (moved)' if moved else '        '}"
    shares = "  ".join(f"{label} {value:.3f}" for label, value in found._asdict().items())
    seconds = time.perf_counter() - began
    print(f"  {name:14} {when}  {shares}  win {desk.win:.3f}  {seconds:5.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=16, help="steps of a round")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for seed in range(given.seeds):
        print(f"seed {seed}")
        with TemporaryDirectory() as made:
            folder = Path(made)
            taught(folder, seed, STEPS)
            for mixing in (True, False):
                run(folder, seed, given.labels, mixing, given.steps)


if __name__ == "__main__":
    main()
