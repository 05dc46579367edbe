"""Time of one step of online DPO, ours beside that of TRL's OnlineDPOTrainer, in one process and interleaved.

    python bench/preference_step.py [--steps 20] [--prompts 16] [--threads 1]

Both sides have the same model (the demo's, all weights trained), prompts, number of answers (two to a prompt), limit
and optimiser, and a reward function that costs nothing. A step is: sample two answers to each prompt, compute them
under the reference, compute them under the policy with gradients, and take one step of AdamW. The learning rate is
tiny, so that both sample from the same distribution all the time. After each step of TRL one of ours follows.

Needs trl 1.16 and its dependencies datasets and accelerate, which Everlearn does not need: install them in a separate
environment. Printed beside it: the product's rounds, with what they add (candidates of the reference, measurements) or
leave out (best-of-n has gradients for one candidate of eight).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from everlearn.data import service_desk, tiny_model
from everlearn.families.preference import improve, methods, passes, sampling, text
from everlearn.families.preference.policy import Policy, load_model, load_tokenizer

LIMIT, RATE, BETA = 48, 1e-7, 0.1
RATIO = 0.75  # the most that our step may take of TRL's


class Clock:
    """Seconds by part and step."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.tokens: list[float] = []

    @contextmanager
    def part(self, name: str) -> Any:
        """Count the seconds of a block, after those of its part in this step."""
        began = time.perf_counter()
        yield
        self.parts[name].append(time.perf_counter() - began)

    def per_step(self, name: str, steps: int) -> float:
        """Return the mean seconds of a part in a step."""
        return sum(self.parts[name]) / steps


def prompts_of(step: int, count: int) -> list[str]:
    """Return the complaints of a step."""
    return [service_desk.COMPLAINTS[(step + i) % len(service_desk.COMPLAINTS)] for i in range(count)]


class Ours:
    """Online DPO of this package's parts: sample, read under the reference, step."""

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.policy = Policy(module, optimizer={"name": "adamw", "lr": RATE})
        self.tokenizer, self.clock = tokenizer, Clock()
        self.stop = text.stop_tokens(module, tokenizer)

    def step(self, number: int, count: int) -> None:
        """Take one step."""
        clock, policy = self.clock, self.policy
        prompts = [text.render(self.tokenizer, one) for one in prompts_of(number, count)]
        with clock.part("step"):
            with clock.part("generation"):
                seeds = np.random.default_rng(number).integers(2**62, size=count).tolist()
                found = sampling.generate_many(policy.module, prompts, 2, seeds=seeds, limit=LIMIT, stop=self.stop)
            with clock.part("reference"):
                flat = [(prompt, one.ids) for prompt, two in zip(prompts, found, strict=True) for one in two]
                with policy.reference() as module, torch.no_grad():
                    reference = passes.logprobs(module, [p for p, _ in flat], [ids for _, ids in flat]).numpy()
            scores = np.array([[float(len(one.ids)) for one in two] for two in found], np.float32)
            shape = reference.reshape(count, 2)
            pairs = methods.silver(methods.Candidates(prompts, found, 2, scores, shape, 0.0))
            with clock.part("policy"):
                dpo = methods.method("dpo")
                assert dpo.pairs is not None
                policy.step(dpo.pairs(policy, pairs, methods.Hyperparameters(BETA)))
        clock.tokens.append(float(np.mean([len(one.ids) for two in found for one in two])))


def trl_trainer(module: Any, tokenizer: Any, steps: int, count: int, folder: Path, after: Callable[[int], None]) -> Any:
    """Return TRL's trainer, the seconds of its parts, and a callback that runs `after` each of its steps."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    clock = Clock()

    class Timed(OnlineDPOTrainer):  # type: ignore[misc]
        def _generate(self, *given: Any, **more: Any) -> Any:
            with clock.part("generation"):
                found = super()._generate(*given, **more)
            clock.tokens.append(float(found[3].sum(1).float().mean()))
            return found

        def _forward(self, *given: Any, **more: Any) -> Any:
            with clock.part("policy" if torch.is_grad_enabled() else "reference"):
                return super()._forward(*given, **more)

    class Interleaved(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            clock.parts["step"].append(time.perf_counter() - self.began)
            after(state.global_step)

    settings = OnlineDPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=count,
        max_steps=steps,
        learning_rate=RATE,
        beta=BETA,
        max_new_tokens=LIMIT,
        max_length=tiny_model.POSITIONS,
        temperature=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=10_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    rows = [{"prompt": [{"role": "user", "content": one}]} for one in prompts_of(0, count) * steps]

    def lengths(completions: Any, **_: Any) -> list[float]:
        return [float(len(one[0]["content"])) for one in completions]

    trainer = Timed(
        model=module,
        ref_model=deepcopy(module),
        reward_funcs=lengths,
        args=settings,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[Interleaved()],
    )
    return trainer, clock


def product(name: str, module: Any, tokenizer: Any, count: int, steps: int, **more: Any) -> None:
    """Print the seconds of a step of the product's rounds."""
    policy = Policy(module, optimizer={"name": "adamw", "lr": RATE})
    prompts = [text.render(tokenizer, one) for one in prompts_of(0, count)]
    given = improve.Improve(steps=steps, prompts=count, limit=LIMIT, **more)
    began = time.perf_counter()
    improve.improve(
        policy,
        prompts,
        lambda _, answers, __: np.array([float(len(one)) for one in answers]),
        given,
        labels=1000,
        stop=text.stop_tokens(module, tokenizer),
    )
    print(f"  {name:60} {(time.perf_counter() - began) / steps:.3f} s a step", flush=True)


def show(name: str, clock: Clock, steps: int) -> float:
    """Print seconds of a step and its parts; return the median of a step."""
    whole = float(np.median(clock.parts["step"]))
    mean = clock.per_step("step", steps)
    shares = ", ".join(f"{part} {clock.per_step(part, steps) / mean:.0%}" for part in ("generation", "reference"))
    rest = 1 - sum(clock.per_step(part, steps) for part in ("generation", "reference")) / mean
    print(
        f"  {name:8} median {whole:.3f} s, mean {mean:.3f} s a step: {shares}, policy and the rest {rest:.0%}; "
        f"{np.mean(clock.tokens):.1f} tokens an answer"
    )
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="", help="a folder of a model, made there if it is missing")
    parser.add_argument("--warm", type=int, default=2, help="first steps that are not counted")
    given = parser.parse_args()
    try:
        import datasets  # noqa: F401
        import trl
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: this benchmark needs trl 1.16 with datasets and accelerate; pip install trl==1.16.0")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    steps = given.steps + given.warm
    with TemporaryDirectory() as folder:
        where = given.model or f"{folder}/model"
        if not Path(where).exists():
            tiny_model.make(where, 0)
        tokenizer = load_tokenizer(where)
        ours = Ours(load_model(where), tokenizer)

        def after(step: int) -> None:
            ours.step(step, given.prompts)
            if step == given.warm:
                for clock in (ours.clock, clocks[0]):
                    clock.parts.clear()
                    clock.tokens.clear()

        clocks: list[Clock] = []
        module = load_model(where)
        trainer, clock = trl_trainer(module, tokenizer, steps, given.prompts, Path(folder), after)
        clocks.append(clock)
        trainer.train()
        print(f"online DPO, {given.prompts} prompts, 2 answers each, at most {LIMIT} tokens, trl {trl.__version__}")
        theirs = show("trl", clock, given.steps)
        mine = show("ours", ours.clock, given.steps)
        each = np.array(ours.clock.parts["step"]) / np.array(clock.parts["step"])
        low, high = np.quantile(each, [0.25, 0.75])
        print(f"  ratio {mine / theirs:.2f} (quartiles of pairs {low:.2f} to {high:.2f}); at most {RATIO}")
        print("rounds of the product")
        for name, more in (
            ("dpo, 2 own candidates and 1 of the reference", {"method": "dpo", "candidates": 3, "reference": 0.34}),
            ("bon (default), 6 own candidates and 2 of the reference", {}),
        ):
            product(name, load_model(where), tokenizer, given.prompts, 4, **more)
    sys.exit(mine / theirs > RATIO)


if __name__ == "__main__":
    main()
