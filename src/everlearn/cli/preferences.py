"""The parts of `everlearn demo` and `everlearn init` for language models that learn from preferences."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

from everlearn.cli import preference_demo, server
from everlearn.cli.console import aside, option, print_json, screen
from everlearn.cli.preference_demo import DemoMeasures
from everlearn.data import service_desk
from everlearn.errors import ConfigError, InputError, MissingExtra

if TYPE_CHECKING:
    from everlearn.spec import Spec

PROMPT_TOKENS, ANSWER_TOKENS = (
    512,
    128,
)  # limits of a new configuration; a longer prompt of the given ones raises the first

_SHOWN = {
    "labels": "{:d}",
    "gold": "{:.2f}",
    "win": "{:.3f}",
    "kind": "{:.0%}",
    "rude": "{:.0%}",
    "right": "{:.0%}",
    "words": "{:.1f}",
    "different": "{:d}",
    "sentences": "{:.0%}",
}


def demo(folder: Path, labels: int, seed: int, shuffled: bool, to_serve: bool, port: int, as_json: bool) -> None:
    """Let a tiny language model at a service desk learn from a simulated annotator, and print what changed."""
    from everlearn import config
    from everlearn.loop.home import held
    from everlearn.loop.loop import Loop
    from everlearn.spec import ServeSpec

    if labels < 1:
        raise ConfigError(f"--labels: got {labels}; expected at least 1")
    name = "preference-shuffled" if shuffled else "preference"
    path, home, model = folder / f"{name}.toml", folder / f"{name}.home", folder / f"service-desk-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if to_serve and home.exists():
        aside.print(f"Resuming {home}. Delete it to start over.", highlight=False)
        server.start(msgspec.structs.replace(config.load(path), serve=ServeSpec(port=port)), home)
        return
    with held(home):
        shutil.rmtree(home, ignore_errors=True)
    began, used = time.perf_counter(), time.process_time()
    _prepare_libraries()
    _make(model, seed, quiet=as_json)
    prompts = folder / "prompts.txt"  # for `--serve`, whose page shows pairs about them
    prompts.write_text("\n".join(service_desk.COMPLAINTS) + "\n", encoding="utf-8")
    spec = msgspec.structs.replace(preference_demo.settings(model, seed), home=home.name, prompts=prompts.name)
    config.save(spec, path)
    with Loop(spec, home) as loop, _rows(quiet=as_json) as show:
        marks = preference_demo.run(loop, labels, seed, show, shuffled=shuffled)
        examples = preference_demo.examples(loop, seed)
        versions = len(loop.versions())
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    if as_json:
        found = [one._asdict() for one in marks]
        print_json({"marks": found, "examples": examples, "versions": versions, "home": str(home), **seconds})
    else:
        _print(marks, examples, seconds["cpu_seconds"])
        screen.print(f"Log and versions: {home}. Settings: {path}", highlight=False, markup=False)
    if to_serve:
        server.start(msgspec.structs.replace(config.load(path), serve=ServeSpec(port=port)), home)


class ModelLimits(NamedTuple):
    """What a configuration needs to know about a language model.

    `vocabulary` is the number of token ids, `positions` the most tokens that the model can read (0: unknown), `prompts`
    the number of tokens of the longest given prompt (0: none was given).
    """

    vocabulary: int
    positions: int
    prompts: int


def init(name: str, prompts: Path | None, path: Path, as_json: bool) -> None:
    """Write a configuration for a causal language model that learns from preferences."""
    from everlearn import config

    found = look(name, prompts)
    prompt_tokens, answer_tokens = limits(found)
    path.write_text(configuration(name, found.vocabulary, prompt_tokens, answer_tokens), encoding="utf-8")
    config.load(path)
    if as_json:
        print_json({"config": str(path), "vocabulary": found.vocabulary, "prompt_tokens": prompt_tokens,
                    "answer_tokens": answer_tokens, "longest_prompt": found.prompts})  # fmt: skip
        return
    screen.print(
        f"[bold]{escape(name)}[/]: {found.vocabulary:,} tokens; prompts of at most {prompt_tokens} tokens, answers of "
        f"at most {answer_tokens}",
        highlight=False,
    )
    screen.print(f"Wrote {path}. Next: everlearn serve{option(path)}", highlight=False, markup=False)


def run(spec: Spec, home: Path, source: str, epochs: int, by: str, as_json: bool) -> None:
    """Take a file of judged pairs through a loop, and print what was learned."""
    from everlearn.loop import pair_file
    from everlearn.loop.loop import Loop

    _prepare_libraries()
    with Loop(spec, home) as loop, _progress(quiet=as_json) as progress:
        began = time.perf_counter()
        taken = pair_file.take(loop, source, epochs=epochs, by=by, progress=progress)
        model: Any = loop.ready().model
        learned, scored = model.summary(), loop.report()["metrics"].get("champion", {})
    found = {"pairs": taken.pairs, "epochs": taken.epochs, "rejected": taken.refused, "home": str(home)}
    found |= {name: learned[name] for name in ("labels", "repeated", "rounds")}
    found |= {"metrics": scored, "seconds": time.perf_counter() - began}
    if as_json:
        print_json(found)
        return
    screen.print(
        f"{taken.pairs:,} pairs in {taken.epochs} epochs; in this home {learned['labels']:,.0f} labels, "
        f"{learned['repeated']:,.0f} read again, {learned['rounds']} rounds of the policy",
        highlight=False,
    )
    for row in taken.rejected[:10]:
        screen.print(f"  rejected: line {row.line}: {row.reason}", highlight=False, markup=False)
    if taken.refused > 10:
        screen.print(f"  and {taken.refused - 10:,} more rejected rows", highlight=False)
    for name, value in scored.items():
        screen.print(f"  {name} {value:.4f}", highlight=False)


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """Yield a function that shows the number of pairs on a terminal."""
    from rich.progress import Progress, TextColumn

    with Progress(TextColumn("{task.description}"), console=aside, transient=True, disable=quiet) as bars:
        task = bars.add_task("0 pairs")
        yield lambda done, _: bars.update(task, description=f"{done:,} pairs")


def look(name: str, prompts: Path | None = None) -> ModelLimits:
    """Return the numbers of a model: a folder, or a name on the Hub, whose configuration is then loaded.

    The vocabulary is that of the logits, which may be larger than the tokenizer's. Raises `ConfigError` for a model
    that cannot be loaded, `MissingExtra` without transformers, `InputError` for a file without prompts.
    """
    try:
        from transformers import AutoConfig
    except ModuleNotFoundError as error:
        raise MissingExtra("a language model", "llm") from error
    from everlearn.families.preference import text
    from everlearn.families.preference.policy import load_tokenizer

    try:
        settings = AutoConfig.from_pretrained(name).get_text_config()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--model: got {name!r}, which cannot be loaded: {error}; expected a folder that transformers wrote, or a "
            "name on the Hub"
        ) from error
    tokenizer = load_tokenizer(name)
    vocabulary = max(int(settings.vocab_size), len(tokenizer))
    positions = int(getattr(settings, "max_position_embeddings", 0) or 0)
    longest = max((len(text.render(tokenizer, one)) for one in read_prompts(prompts)), default=0) if prompts else 0
    return ModelLimits(vocabulary, positions, longest)


def read_prompts(path: Path) -> Iterator[Any]:
    """Yield the prompts of a file: the lines of a text file, or the column `prompt` of JSON lines, CSV or Parquet."""
    from everlearn.stream.preferences import read_preferences

    if path.suffix == ".txt":
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        if not any(lines):
            raise InputError(f"{path} has no prompts; expected one a line")
        yield from (line for line in lines if line)
        return
    for chunk in read_preferences(str(path), "prompt"):
        yield from (row.prompt for row in chunk.rows)


def limits(found: ModelLimits) -> tuple[int, int]:
    """Return the most tokens of a prompt and of an answer, which fit into the model's positions together.

    Raises `ConfigError` for a prompt that leaves no room for an answer.

    >>> limits(ModelLimits(vocabulary=100, positions=2048, prompts=700))
    (704, 128)
    >>> limits(ModelLimits(vocabulary=100, positions=256, prompts=0))
    (128, 128)
    """
    longest = -(-found.prompts // 64) * 64
    if not found.positions:
        return max(PROMPT_TOKENS, longest), ANSWER_TOKENS
    answer = min(ANSWER_TOKENS, max(1, found.positions // 2))
    prompt = min(max(PROMPT_TOKENS, longest), found.positions - answer)
    if prompt < found.prompts:
        raise ConfigError(
            f"--prompts: got a prompt of {found.prompts} tokens; the model has room for {found.positions}, of which "
            f"{answer} are for the answer. Shorten the prompt"
        )
    return prompt, answer


def configuration(name: str, vocabulary: int, prompt_tokens: int, answer_tokens: int) -> str:
    """Return the text of a configuration, with comments on what people change."""
    return f"""\
# A language model that learns from preferences. Every setting, with its meaning and default, is in
# docs/reference/settings.md. A setting that is left out has its default.

# mode = "gated"              # only what has won duels may answer; default: "live"

[schema]
label = "chosen"
task = "preference"
prompt_tokens = {prompt_tokens}           # longer prompts are refused; no text is ever cut
answer_tokens = {answer_tokens}           # answers end here at the latest
vocabulary = {vocabulary}
# annotators = 64             # people and judges that are kept apart
# groups = 64                 # kinds of prompts whose preferences may drift apart

[schema.fields]
prompt = "text"

[model]
family = "preference"
model = {json.dumps(name)}
weights = "adapters"          # "all" trains every weight: better for small models, too much for large ones
# device = "cuda"
# dtype = "bfloat16"          # of the frozen weights
round = 32                    # labels between two rounds of learning of the policy

[model.lora]
rank = 8

[model.optimizer]
name = "adam"
lr = 0.001                    # lower it if answers change too fast, or read worse

[model.improve]
limit = {answer_tokens}                   # tokens of an answer that the policy practises on
# steps = 16                  # steps of a round
# beta = 0.3                  # the leash to the first version: more is closer
# budget = 6.0                # the most that the policy may differ from it, in nats per answer

[model.choose]
selector = "random"           # "thompson" or "infomax" choose pairs that teach more, if that pays
"""


def _prepare_libraries() -> None:
    """Compute with one thread, as more are slower for matrices this small; and show no bars of transformers."""
    from everlearn._torch import torch

    torch.set_num_threads(1)
    try:
        from transformers.utils.logging import disable_progress_bar
    except ModuleNotFoundError as error:
        raise MissingExtra("a language model", "llm") from error
    disable_progress_bar()  # type: ignore[no-untyped-call]


def _make(model: Path, seed: int, quiet: bool) -> None:
    """Make the language model of the demo unless it is there already; show a bar on a terminal."""
    from rich.progress import Progress

    from everlearn.data import tiny_model

    if (model / "config.json").exists():
        return
    unfinished = model.with_name(f"{model.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with Progress(console=aside, transient=True, disable=quiet or not aside.is_terminal) as bars:
        task = bars.add_task("teaching a small language model", total=tiny_model.STEPS)
        tiny_model.make(unfinished, seed, progress=lambda done, steps: bars.update(task, completed=done, total=steps))
    unfinished.rename(model)


@contextmanager
def _rows(quiet: bool) -> Iterator[preference_demo.Show]:
    """Yield a function that shows each measurement as soon as it is there."""

    def show(one: DemoMeasures) -> None:
        if not quiet:
            done = one._asdict()
            aside.print(
                "  ".join(f"{name} {form.format(done[name])}" for name, form in _SHOWN.items()), highlight=False
            )

    yield show


def _print(marks: Sequence[DemoMeasures], examples: Sequence[dict[str, str]], cpu_seconds: float) -> None:
    table = Table(*_SHOWN, box=box.SIMPLE_HEAD)
    for one in marks:
        done = one._asdict()
        table.add_row(*(form.format(done[name]) for name, form in _SHOWN.items()))
    screen.print(table)
    for example in examples:
        screen.print(f"  {example['complaint']}", highlight=False, markup=False)
        screen.print(f"    first: {example['first']}", highlight=False, markup=False)
        screen.print(f"    now:   {example['now']}", highlight=False, markup=False)
    screen.print(f"{cpu_seconds:.0f} CPU seconds", highlight=False)
