"""Advice: every rule has its reason, every advice runs, and what it promises is seen on streams where it matters."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

import everlearn as el
from everlearn import advise, cli, config, model
from everlearn._torch import nn, torch
from everlearn.advise import Situation, situation
from everlearn.advise.rules import RULES
from everlearn.errors import ConfigError
from everlearn.families.neural import settings as neural
from everlearn.gate import power
from everlearn.records import Batch
from everlearn.spec import Schema
from tests.cli.conftest import data, folder  # noqa: F401  (fixtures)
from tests.support import ROOT
from tests.support.commands import call

CLASSES = 4
CENTRES = 2.0 * np.random.default_rng(99).normal(size=(CLASSES, 8))
SHAPE = {"task": "multiclass", "dense": 8, "hashed": 0, "classes": CLASSES}
PRETRAINED = f"{__name__}:pretrained"

SITUATIONS = st.builds(
    Situation,
    inputs=st.sampled_from(get_args(situation.Inputs)),
    model=st.sampled_from([*get_args(situation.Size), 5_000, 3_000_000_000]),
    predicts=st.just("classes"),
    frequency=st.sampled_from(get_args(situation.Frequency)),
    volume=st.sampled_from([1, 80, 500, 4_000, 1_000_000]),
    new_classes=st.booleans(),
    forgetting=st.sampled_from(["low", "medium", "high"]),
    drift=st.sampled_from(["slow", "fast"]),
    borders=st.booleans(),
    store=st.booleans(),
    undo=st.booleans(),
    late=st.booleans(),
) | st.builds(
    Situation,
    model=st.sampled_from(get_args(situation.Size)),
    predicts=st.just("number"),
    frequency=st.sampled_from(get_args(situation.Frequency)),
    forgetting=st.sampled_from(["low", "medium", "high"]),
    store=st.booleans(),
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def blobs(n: int, seed: int, ordered: bool = False, moved: bool = False) -> tuple[Batch, np.ndarray, np.ndarray]:
    """Points around one centre for each class; `ordered` class after class, `moved` with their columns reversed."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, CLASSES, n)
    y = np.sort(y) if ordered else y
    x = CENTRES[y][:, ::-1] if moved else CENTRES[y]
    x = (x + draw.normal(size=x.shape)).astype(np.float32)
    rows = Batch(x, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return rows, y.astype(np.float64), np.ones(n, np.float32)


def table_of(part: tuple[Batch, np.ndarray, np.ndarray]) -> dict[str, Any]:
    rows, y, _ = part
    return {f"x{i}": rows.dense[:, i] for i in range(8)} | {"y": y.astype(int)}


def pretrained(dense: int, outputs: int) -> nn.Module:
    """A network that knows the blobs as they were before they moved."""
    net = nn.Sequential(nn.Linear(dense, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))
    rows, y, _ = blobs(1000, seed=7)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.from_numpy(rows.dense)), torch.from_numpy(y).long()).backward()
        optimizer.step()
    return net


def terms(advice: advise.Advice) -> dict[str, Any]:
    inner = advice.model.get("model", advice.model)
    return {one["kind"]: one for one in inner.get("terms", ())}


def accuracy(answers: np.ndarray, y: np.ndarray) -> float:
    return float((answers.argmax(1) == y).mean())


# The rows of the table, each run


ROWS: dict[str, tuple[dict[str, Any], Callable[[advise.Advice], bool]]] = {
    "monthly: fine-tune all weights + EWC": (
        {"model": "small", "frequency": "monthly"},
        lambda one: list(terms(one)) == ["ewc"] and one.model["passes"] > 1 and "lora" not in one.model,
    ),
    "weekly: replay + EWC": (
        {"model": "small", "frequency": "weekly"},
        lambda one: list(terms(one)) == ["replay", "ewc"] and one.model["memory"]["kind"] == "balanced",
    ),
    "daily: online LoRA + gate": (
        {"model": "large", "frequency": "daily"},
        lambda one: one.model["family"] == "gated" and 8 <= one.model["model"]["lora"]["rank"] <= 16,
    ),
    "streaming: EMA + drift detection": (
        {"model": "small", "frequency": "streaming", "forgetting": "low"},
        lambda one: one.model["ema"] == 0.9 and one.model["drift"] == {"detector": "adwin", "rate": 2.0},
    ),
    "on demand: Fisher merge": (
        {"model": "small", "frequency": "on demand"},
        lambda one: "ewc" in terms(one) and one.then == ("everlearn merge champion challenger --method fisher",),
    ),
    "periodic: EMA merge": (
        {"model": "small", "frequency": "periodic"},
        lambda one: one.then == ("everlearn merge champion challenger --method ema",),
    ),
    "periodic: interpolation": (
        {"model": "small", "frequency": "periodic", "drift": "fast"},
        lambda one: one.then == ("everlearn merge champion challenger --method linear",),
    ),
    "a linear model, streaming": (
        {"model": "linear", "frequency": "streaming", "drift": "fast"},
        lambda one: one.model == {"family": "linear"} and one.settings["mode"] == "live",
    ),
}


@pytest.mark.parametrize(("answers", "expected"), ROWS.values(), ids=ROWS)
def test_each_row_of_the_table_runs_in_the_loop_as_it_is_written(answers, expected, tmp_path):
    advice = advise.of(answers | {"volume": 400})
    assert expected(advice)
    stream = el.read(table_of(blobs(1600, seed=1)), label="y")
    path = tmp_path / "everlearn.toml"
    config.save(_named(advice, PRETRAINED).spec(stream.schema), path)
    rows, y, _ = blobs(200, seed=3)
    with el.open(config.load(path), home=tmp_path / "loop.home") as loop:
        assert loop.run(stream)["examples"] == 1600
        said = [loop.predict({f"x{i}": float(one) for i, one in enumerate(row)}).value for row in rows.dense]
        assert np.mean(np.array(said) == y) > 0.8
        for command in advice.then:
            merged = loop.merge("champion", "challenger", command.split()[-1])
            assert len(merged.parents) == 2
            one = model.build(loop.home.versions.find(merged.id).spec, el.schema.shape(stream.schema))
            one.arrays = loop.home.versions.load(merged.id)
            assert accuracy(one.predict(rows), y) > 0.8


def _named(advice: advise.Advice, module: str) -> advise.Advice:
    """The same advice with a network that knows something, where it is for a large one."""
    if "lora" not in advice.model.get("model", advice.model):
        return advice
    inner = advice.model["model"] | {"module": module}
    return msgspec.structs.replace(advice, model=advice.model | {"model": inner})


# What advice promises, seen


def learned(answers: dict[str, Any], *parts: tuple[Batch, np.ndarray, np.ndarray]) -> tuple[Any, list[np.ndarray]]:
    made = model.build(advise.of(answers).model, SHAPE)
    return made, [made.learn(*part) for part in parts]


def test_new_classes_are_kept_by_what_is_advised_for_them_and_not_by_anchors():
    rows, y, _ = blobs(1000, seed=5)
    stream = blobs(2400, seed=1, ordered=True)
    kept, _ = learned({"model": "small", "new_classes": True, "frequency": "weekly"}, stream)
    anchored, _ = learned({"model": "small", "store": False, "frequency": "weekly"}, stream)
    assert accuracy(kept.predict(rows), y) > 0.9
    assert accuracy(anchored.predict(rows), y) < 0.6  # regularisation alone, as the advice says


def test_old_patterns_are_kept_where_forgetting_is_said_to_be_bad():
    rows, y, _ = blobs(1000, seed=5)
    first, then = blobs(1500, seed=1), blobs(2200, seed=2, moved=True)
    kept, _ = learned({"model": "small", "forgetting": "high"}, first, then)
    lost, _ = learned({"model": "small", "forgetting": "low"}, first, then)
    assert accuracy(kept.predict(rows), y) > accuracy(lost.predict(rows), y) + 0.2


# What holds for every situation


@settings(max_examples=300, deadline=None)
@given(SITUATIONS)
def test_every_advice_is_a_configuration_that_is_read_back_and_a_model_that_is_accepted(asked):
    advice = advise.of(asked)
    spec = advice.spec()
    assert config.convert(config.tomllib.loads(config.text(spec))) == spec
    shape = el.schema.shape(spec.schema)
    inner = advice.model.get("model", advice.model)
    if inner["family"] == "neural":
        chosen = neural.read(shape | inner)
        wanting = {"replay", "distill"} & terms(advice).keys()
        assert (chosen.memory.kind != "none") == bool(wanting)
        anchored = {"ewc", "lwf", "orthogonal"} & terms(advice).keys()
        assert (chosen.consolidate.every > 0) == bool(anchored)
    else:
        model.build(advice.model, shape)


@settings(max_examples=300, deadline=None)
@given(SITUATIONS)
def test_what_is_advised_keeps_to_the_answers(asked):
    advice, kinds = advise.of(asked), terms(advise.of(asked)).keys()
    spec, family = advice.spec(), advice.model["family"]
    if asked.model == "linear" or (asked.model == "any" and asked.inputs in ("table", "text")):
        assert family == "linear"
    if not asked.store:
        assert spec.replay.kind == "none"
        assert not {"replay", "distill"} & kinds
        assert family != "gated"  # it keeps the rows of a validation
        assert any("event log" in one for one in advice.dangers)
    if asked.new_classes and family != "linear":
        told = " ".join([*advice.dangers, *(one.why for one in advice.rejected)])
        assert "19.6 to 20.1 %" in told
        assert "replay" in kinds if asked.store else "lwf" in kinds
        assert any("model.prior = 0" in one for one in advice.dangers)
    if family != "linear":
        inner = advice.model.get("model", advice.model)
        large = asked.model == "large" or (isinstance(asked.model, int) and asked.model >= situation.LARGE)
        assert inner.get("known", False) == (large and asked.predicts == "classes")
        streams = asked.inputs == "table" and asked.frequency in ("streaming", "on demand", "periodic")
        assert (inner["ema"] <= 0.9) == streams
        shifts = asked.inputs == "image" and bool({"replay", "distill"} & kinds)
        assert any('memory.augment = "shift"' in one for one in advice.dangers) == shifts
    if asked.undo:
        assert spec.mode == "gated"
    if asked.late:
        assert spec.drift.watch == "proba"
    if asked.frequency in ("on demand", "periodic"):
        assert any("lossy" in one for one in advice.dangers)
        assert any("merge" in one for one in advice.then)
    if "ewc" in kinds:
        assert any("fragile" in one and "Calibrate" in one for one in advice.dangers)
    if asked.volume < situation.MANY:
        assert any("validation sets are noisy" in one for one in advice.dangers)


@settings(max_examples=300, deadline=None)
@given(SITUATIONS)
def test_every_setting_has_one_reason_and_nothing_is_both_advised_and_rejected(asked):
    advice = advise.of(asked)
    inner = advice.model.get("model", advice.model)
    given_for = [path for reason in advice.reasons for path in reason.settings]
    assert len(given_for) == len(set(given_for))
    assert all(reason.because and reason.why for reason in advice.reasons)
    held = set(_paths("model", {name: one for name, one in inner.items() if name != "terms"}))
    held |= {f"model.terms.{kind}" for kind in terms(advice)} | set(_paths("", advice.settings))
    if advice.model["family"] == "gated":
        held |= {f"gated.{name}" for name in advice.model.keys() - {"family", "model"}}
    assert held == set(given_for)
    there = {"replay": "replay" in terms(advice), "a network": inner["family"] == "neural"}
    there |= {"adapters (LoRA)": "lora" in inner, "mode = live": advice.settings.get("mode") == "live"}
    there |= {"mode = gated": advice.settings.get("mode") == "gated", "a linear model": inner["family"] == "linear"}
    assert not [one.alternative for one in advice.rejected if there.get(one.alternative)]


def _paths(before: str, values: dict[str, Any]) -> list[str]:
    """Dotted paths; tables that are one setting stay whole."""
    found = []
    for name, one in values.items():
        path = f"{before}.{name}".lstrip(".")
        found += _paths(path, one) if isinstance(one, dict) and name not in ("lora", "optimizer") else [path]
    return found


def test_every_rule_is_taken_somewhere():
    taken: set[int] = set()
    draw = np.random.default_rng(0)
    choices = {one.name: one.choices or ("80", "4000", "1000000") for one in situation.QUESTIONS}
    for _ in range(3000):
        words = {name: str(draw.choice(some)) for name, some in choices.items()}
        if words["predicts"] == "number":
            words["new_classes"] = "no"
        asked = advise.read({name: situation.heard(name, word) for name, word in words.items()})
        taken |= {RULES.index(rule) for rule in advise._applied(asked)[0]}
    assert [RULES[number].when for number in sorted(set(range(len(RULES))) - taken)] == []


def test_rules_look_only_at_facts_that_there_are_and_words_that_can_be():
    words = {one.name: set(one.choices) for one in situation.QUESTIONS} | {"volume": {"few", "some", "many"}}
    words |= {"family": {"linear", "neural"}, "size": {"small", "large"}}
    words |= {name: {"yes", "no"} for name in ("ewc", "lora", "anchors", "remembers")}
    for rule in RULES:
        for name, some in rule.when.items():
            assert set(some.split("|")) <= words[name], rule.when


def test_commands_that_rules_name_exist():
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    for command in {command for rule in RULES for command in rule.then}:
        program, name, *arguments = command.split()
        assert program == "everlearn"
        commands[name].make_context(name, arguments)  # raises for options that there are not


def test_pages_that_rules_name_exist():
    named = {page for rule in RULES for page in re.findall(r"docs/[\w/-]+\.md", rule.source)}
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


def test_the_power_that_is_told_is_that_of_the_exact_test():
    assert power.needed(1.0, test="exact") == situation.POINT
    assert power.needed(2.0, test="exact") == situation.TWO_POINTS
    (told,) = [one for one in advise.of({"volume": 100}).dangers if "noisy" in one]
    for words in ("takes 5;", "take 10 with", "one point 39 (3,881)", "on 6 % of rows"):
        assert words in told


# Answers


def test_answers_are_heard_as_people_give_them():
    assert situation.heard("volume", "2,500") == 2500
    assert situation.heard("model", "7e9") == 7_000_000_000
    assert situation.heard("model", " Large") == "large"
    assert situation.heard("frequency", "On-demand") == "on demand"
    assert situation.heard("store", "N") is False
    assert situation.facts(Situation(model=9_999_999))["size"] == "small"
    assert situation.facts(Situation(model=10_000_000))["size"] == "large"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"frequency": "hourly"}, ["frequency", "'hourly'", "streaming, daily"]),
        ({"volume": 0}, ["volume", ">= 1"]),
        ({"store": "perhaps"}, ["store", "'perhaps'", "yes, no"]),
        ({"colour": "red"}, ["colour"]),
        ({"predicts": "number", "new_classes": True}, ["new_classes", "number", "classes"]),
    ],
)
def test_answers_that_cannot_be_are_refused(answers, words):
    with pytest.raises(ConfigError) as raised:
        advise.of(answers)
    assert [word for word in words if word not in str(raised.value)] == []


def test_only_what_still_matters_is_asked_and_assumed():
    asked = [one.name for one in advise.questions({"model": "linear"})]
    assert "inputs" not in asked
    assert "borders" not in asked  # a matter of networks
    assert "drift" in asked
    assert {"predicts", "new_classes"} <= set(asked)
    assert "new_classes" not in [one.name for one in advise.questions({"predicts": "number"})]
    assert advise.of({"model": "linear"}).assumed == tuple(asked)
    assert advise.of(Situation()).assumed == ()
    some = {one.name: situation.heard(one.name, one.default) for one in situation.QUESTIONS}
    assert advise.of(some) == advise.of(Situation())


@settings(max_examples=100, deadline=None)
@given(SITUATIONS)
def test_an_answer_that_is_not_asked_for_changes_nothing(asked):
    """Answers are given one after the other as they are asked for; the rest are defaults, and make no difference."""
    answers: dict[str, Any] = {}
    while open_ := advise.questions(answers):
        answers[open_[0].name] = getattr(asked, open_[0].name)
    whole, some = advise.of(asked), advise.of(answers)
    assert (whole.model, whole.settings, whole.then) == (some.model, some.settings, some.then)


def test_data_answer_what_they_can():
    fields = {"a": "numeric", "note": "text", "v": "vector[12]"}
    schema = Schema(label="y", task="multiclass", fields=fields, classes=("a", "b", "c"))
    assert advise.look(schema, 700) == {"inputs": "text", "predicts": "classes", "volume": 700}
    assert advise.wide(schema) == 13
    assert advise.look(Schema(label="y", task="regression", fields={"a": "numeric"}))["predicts"] == "number"
    assert advise.of(advise.look(schema, 700)).spec(schema).schema == schema


# The command


def test_advice_as_data_names_what_was_assumed(data):  # noqa: F811
    told = data("advise", "--model", "7e7", "--frequency", "daily", "--volume", "300")
    assert told["title"] == "online LoRA + replay + EMA .99, each update validated"
    assert told["situation"]["model"] == 70_000_000
    assert "forgetting" in told["assumed"]
    assert not {"model", "frequency", "volume", "borders"} & set(told["assumed"])
    assert {"settings", "because", "why", "source"} == told["reasons"][0].keys()
    assert config.convert(config.tomllib.loads(told["toml"])).model == told["model"]


def test_advice_on_data_is_written_and_runs(data, folder):  # noqa: F811
    columns = table_of(blobs(1500, seed=1))
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "sub").mkdir()
    arguments = ("advise", "rows.csv", "--label", "y", "--drift", "fast", "--write", "sub/loop.toml")
    told = data(*arguments)
    assert told["from_data"] == ["inputs", "predicts", "volume"]
    assert told["situation"]["volume"] == 1500
    assert told["config"] == "sub/loop.toml"
    assert data("run", "--config", "sub/loop.toml")["metrics"]["champion"]["accuracy"] > 0.8
    call(*arguments, expect=1)  # it is there
    data(*arguments, "--force", "--model", "small", "--module", "my_nets:make")
    assert config.load(folder / "sub" / "loop.toml").model["module"] == "my_nets:make"


def test_the_page_and_the_configuration_for_people(folder, capsys):  # noqa: F811
    call("advise", "--inputs", "image", "--new-classes", "yes", "--frequency", "weekly")
    out = " ".join(capsys.readouterr().out.split())
    for words in ("you said inputs", "assumed", "Known dangers", "Not advised", "19.6 to 20.1 %", "[model.memory]"):
        assert words in out
    call("advise", "--inputs", "image", "--toml")
    (folder / "everlearn.toml").write_text(capsys.readouterr().out)
    assert config.load(folder / "everlearn.toml").model["family"] == "neural"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frequency", "hourly"], ["frequency is 'hourly'", "weekly"]),
        (["--store", "perhaps"], ["store is 'perhaps'", "yes, no"]),
        (["rows.csv"], ["--label COLUMN"]),
        (["--write", "x.toml"], ["--write needs data"]),
        (["--model", "linear", "--module", "a:b"], ["--module", "linear"]),
    ],
)
def test_what_is_wrong_is_said_in_one_message(folder, capsys, arguments, words):  # noqa: F811
    call("advise", *arguments, expect=1)
    told = " ".join(capsys.readouterr().err.split())
    assert [word for word in words if word not in told] == []


def test_a_terminal_is_asked_what_is_missing(tmp_path):
    """A real terminal: questions come one by one, a wrong answer is asked for again, what does not matter is not asked.

    The beginning of a choice will do, and an empty line is the default.
    """
    command = [sys.executable, "-m", "everlearn", "advise", "--frequency", "weekly", "--drift", "slow"]
    replies = ["ima", "huge", "sm", "", "5,000", "y", "high", "no", "yes", "n", ""]
    outer, inner = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, cwd=tmp_path, env=environment) as process:
        os.close(inner)
        said = ""
        for reply in replies:
            said += _read(outer, r"\([\w,]+\) $")  # a question, with its default at the end
            os.write(outer, f"{reply}\n".encode())
        said += _read(outer, "all of this")
    os.close(outer)
    assert process.returncode == 0
    assert said.count("Which model do you have?") == 2
    assert "model is 'huge', expected one of any, linear, small, large" in said
    assert "When is the model updated?" not in said
    assert "network + replay + EMA .99, gated" in said
    assert "assumed" not in said


def _read(terminal: int, pattern: str, seconds: float = 60.0) -> str:
    """What a terminal shows, without colours, until the pattern is there."""
    said, deadline = "", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 65536).decode()
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)
        if re.search(pattern, plain):
            return plain
    raise AssertionError(f"waited for {pattern!r}, got {said!r}")


# The documentation


def test_the_tables_of_the_documentation_are_those_of_the_rules(capsys):
    page = (ROOT / "docs/how-to/advise.md").read_text(encoding="utf-8")
    written = re.search(r"<!-- rules: .*? -->\n\n(.*?)\n<!-- end of rules -->", page, re.DOTALL)
    assert written is not None
    call("advise", "--rules")
    printed = capsys.readouterr().out
    assert written[1] == printed, "docs/how-to/advise.md: put there what `everlearn advise --rules` prints"
    for one in situation.QUESTIONS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{one.name}` |"))
        assert f"| `{one.default.replace(',', '')}` |" in row
        assert all(choice in row for choice in one.choices)


def test_json_rules_are_the_same(data):  # noqa: F811
    assert data("advise", "--rules")["rules"] == advise.table()
    assert json.loads(json.dumps(msgspec.to_builtins(advise.of({}))))["model"] == {"family": "linear"}


def test_a_network_of_the_current_folder_is_tried_on_the_data_and_what_it_lacks_is_said(folder, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    (folder / "picture_nets.py").write_text(
        "from torch import nn\n\ndef conv(shape, outputs):\n"
        "    return nn.Sequential(nn.Conv2d(shape[0], 2, 3), nn.Flatten(), nn.Linear(8, outputs))\n"
    )
    columns = ",".join(f"p{i}" for i in range(16))
    lines = [columns + ",y"] + [",".join(map(str, [*range(row, row + 16), "ab"[row % 2]])) for row in range(40)]
    (folder / "pictures.csv").write_text("\n".join(lines) + "\n")
    asked = ("pictures.csv", "--label", "y", "--inputs", "image", "--module", "picture_nets:conv", "--write", "a.toml")

    call("advise", *asked)
    told = " ".join(capsys.readouterr().out.split())
    assert "But first, in [model]: neural model: 'picture_nets:conv'" in told
    assert "it names shape, which is not set: set it to that of one row, 16 numbers in all" in told
    path = folder / "a.toml"
    path.write_text(path.read_text().replace('module = "picture', 'shape = [1, 4, 4]\nmodule = "picture'))
    call("run", "--config", "a.toml", "--json")
    assert json.loads(capsys.readouterr().out)["events"] == 40
