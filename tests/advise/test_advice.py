"""Advice: every advice runs in the loop, keeps to the answers, and delivers on streams where it matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlearn as el
from everlearn import advise, config, model
from everlearn._torch import nn, torch
from everlearn.advise import Situation, situation
from everlearn.families.neural import settings as neural
from everlearn.records import Batch
from tests.support.situations import CLASSES, accuracy, blobs, table_of

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


def pretrained(dense: int, outputs: int) -> nn.Module:
    """Return a network trained on the blobs as they were before they moved."""
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
    return {entry["kind"]: entry for entry in inner.get("terms", ())}


ROWS: dict[str, tuple[dict[str, Any], Callable[[advise.Advice], bool]]] = {
    "monthly: fine-tune all weights + EWC": (
        {"model": "small", "frequency": "monthly"},
        lambda entry: list(terms(entry)) == ["ewc"] and entry.model["passes"] > 1 and "lora" not in entry.model,
    ),
    "weekly: replay + EWC": (
        {"model": "small", "frequency": "weekly"},
        lambda entry: list(terms(entry)) == ["replay", "ewc"] and entry.model["memory"]["kind"] == "balanced",
    ),
    "daily: online LoRA + gate": (
        {"model": "large", "frequency": "daily"},
        lambda entry: entry.model["family"] == "gated" and 8 <= entry.model["model"]["lora"]["rank"] <= 16,
    ),
    "streaming: EMA + drift detection": (
        {"model": "small", "frequency": "streaming", "forgetting": "low"},
        lambda entry: entry.model["ema"] == 0.9 and entry.model["drift"] == {"detector": "adwin", "rate": 2.0},
    ),
    "on demand: Fisher merge": (
        {"model": "small", "frequency": "on demand"},
        lambda entry: "ewc" in terms(entry) and entry.then == ("everlearn merge champion challenger --method fisher",),
    ),
    "periodic: EMA merge": (
        {"model": "small", "frequency": "periodic"},
        lambda entry: entry.then == ("everlearn merge champion challenger --method ema",),
    ),
    "periodic: interpolation": (
        {"model": "small", "frequency": "periodic", "drift": "fast"},
        lambda entry: entry.then == ("everlearn merge champion challenger --method linear",),
    ),
    "a linear model, streaming": (
        {"model": "linear", "frequency": "streaming", "drift": "fast"},
        lambda entry: entry.model == {"family": "linear"} and entry.settings["mode"] == "live",
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
        answered = [loop.predict({f"x{i}": float(entry) for i, entry in enumerate(row)}).value for row in rows.dense]
        assert np.mean(np.array(answered) == y) > 0.8
        for command in advice.then:
            merged = loop.merge("champion", "challenger", command.split()[-1])
            assert len(merged.parents) == 2
            entry = model.build(loop.home.versions.find(merged.id).spec, el.schema.shape(stream.schema))
            entry.arrays = loop.home.versions.load(merged.id)
            assert accuracy(entry.predict(rows), y) > 0.8


def _named(advice: advise.Advice, module: str) -> advise.Advice:
    """Return the advice with a pretrained module, where it is for a large network."""
    if "lora" not in advice.model.get("model", advice.model):
        return advice
    inner = advice.model["model"] | {"module": module}
    return msgspec.structs.replace(advice, model=advice.model | {"model": inner})


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


@settings(max_examples=300, deadline=None)
@given(SITUATIONS)
def test_every_advice_is_a_configuration_that_is_read_back_and_a_model_that_is_accepted(case):
    advice = advise.of(case)
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
def test_what_is_advised_keeps_to_the_answers(case):
    advice, kinds = advise.of(case), terms(advise.of(case)).keys()
    spec, family = advice.spec(), advice.model["family"]
    if case.model == "linear" or (case.model == "any" and case.inputs in ("table", "text")):
        assert family == "linear"
    if not case.store:
        assert spec.replay.kind == "none"
        assert not {"replay", "distill"} & kinds
        assert family != "gated"  # it keeps the rows of a validation
        assert any("event log" in entry for entry in advice.dangers)
    if case.new_classes and family != "linear":
        warnings = " ".join([*advice.dangers, *(entry.why for entry in advice.rejected)])
        assert "19.6 to 20.1 %" in warnings
        assert "replay" in kinds if case.store else "lwf" in kinds
        assert any('model.new_classes = "overall"' in entry for entry in advice.dangers)
    if family != "linear":
        inner = advice.model.get("model", advice.model)
        large = case.model == "large" or (isinstance(case.model, int) and case.model >= situation.LARGE)
        assert (inner.get("new_classes") == "known") == (large and case.predicts == "classes")
        streams = case.inputs == "table" and case.frequency in ("streaming", "on demand", "periodic")
        apart = case.volume < situation.MANY and case.frequency != "streaming"
        short = case.new_classes and case.store and (case.volume < situation.FEW or apart)
        assert (inner["ema"] <= 0.9) == (streams or short)
        assert (inner["ema"] == 0.0) == short
        shifts = case.inputs == "image" and bool({"replay", "distill"} & kinds)
        assert any('memory.augment = "shift"' in entry for entry in advice.dangers) == shifts
    if case.undo:
        assert spec.mode == "gated"
    if case.late:
        assert spec.drift.watch == "proba"
    if case.frequency in ("on demand", "periodic"):
        assert any("lossy" in entry for entry in advice.dangers)
        assert any("merge" in entry for entry in advice.then)
    if "ewc" in kinds:
        assert any("fragile" in entry and "Calibrate" in entry for entry in advice.dangers)
    if case.volume < situation.MANY:
        assert any("validation sets are noisy" in entry for entry in advice.dangers)


@settings(max_examples=300, deadline=None)
@given(SITUATIONS)
def test_every_setting_has_one_reason_and_nothing_is_both_advised_and_rejected(case):
    advice = advise.of(case)
    inner = advice.model.get("model", advice.model)
    given_for = [path for reason in advice.reasons for path in reason.settings]
    assert len(given_for) == len(set(given_for))
    assert all(reason.because and reason.why for reason in advice.reasons)
    held = set(_paths("model", {name: entry for name, entry in inner.items() if name != "terms"}))
    held |= {f"model.terms.{kind}" for kind in terms(advice)} | set(_paths("", advice.settings))
    if advice.model["family"] == "gated":
        held |= {f"gated.{name}" for name in advice.model.keys() - {"family", "model"}}
    assert held == set(given_for)
    there = {"replay": "replay" in terms(advice), "a network": inner["family"] == "neural"}
    there |= {"adapters (LoRA)": "lora" in inner, "mode = live": advice.settings.get("mode") == "live"}
    there |= {"mode = gated": advice.settings.get("mode") == "gated", "a linear model": inner["family"] == "linear"}
    assert not [entry.alternative for entry in advice.rejected if there.get(entry.alternative)]


def _paths(before: str, values: dict[str, Any]) -> list[str]:
    """Return dotted paths; tables that are one setting stay whole."""
    found = []
    for name, entry in values.items():
        path = f"{before}.{name}".lstrip(".")
        found += _paths(path, entry) if isinstance(entry, dict) and name not in ("lora", "optimizer") else [path]
    return found


def test_only_what_still_matters_is_asked_and_assumed():
    case = [entry.name for entry in advise.questions({"model": "linear"})]
    assert "inputs" not in case
    assert "borders" not in case  # a matter of networks
    assert "drift" in case
    assert {"predicts", "new_classes"} <= set(case)
    assert "new_classes" not in [entry.name for entry in advise.questions({"predicts": "number"})]
    assert advise.of({"model": "linear"}).assumed == tuple(case)
    assert advise.of(Situation()).assumed == ()
    some = {entry.name: situation.parse_answer(entry.name, entry.default) for entry in situation.QUESTIONS}
    assert advise.of(some) == advise.of(Situation())


@settings(max_examples=100, deadline=None)
@given(SITUATIONS)
def test_an_answer_that_is_not_asked_for_changes_nothing(case):
    """Answers are given in the order of the questions; the rest are defaults, and make no difference."""
    answers: dict[str, Any] = {}
    while open_ := advise.questions(answers):
        answers[open_[0].name] = getattr(case, open_[0].name)
    whole, some = advise.of(case), advise.of(answers)
    assert (whole.model, whole.settings, whole.then) == (some.model, some.settings, some.then)
