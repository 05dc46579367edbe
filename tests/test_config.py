"""Settings from files and dicts: what is taken, what is refused and with which words; and specs that homes store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

import everlearn as el
from everlearn import config, spec
from everlearn.config import release_0_1_0
from everlearn.errors import ConfigError, LogError
from everlearn.records import Loss
from everlearn.schema import Encoder

SCHEMA: dict[str, Any] = {"label": "y", "task": "binary", "classes": [0, 1], "fields": {"a": "numeric"}}
RECORDS = {
    "": spec.Spec,
    "schema": spec.Schema,
    "gate": spec.GateSpec,
    "drift": spec.DriftSpec,
    "replay": spec.ReplaySpec,
    "feedback": spec.FeedbackSpec,
    "decision": spec.DecisionSpec,
    "bandit": spec.BanditSpec,
    "log": spec.LogSpec,
    "limits": spec.LimitsSpec,
    "metrics": spec.MetricsSpec,
    "serve": spec.ServeSpec,
    "judge": spec.JudgeSpec,
    "ask": spec.AskSpec,
    "mlflow": spec.MlflowSpec,
    "partitions": spec.PartitionSpec,
}


def with_setting(name: str, value: Any) -> dict[str, Any]:
    """Return the settings of a small loop, with one changed."""
    record, _, field = name.rpartition(".")
    values: dict[str, Any] = {"schema": dict(SCHEMA)}
    (values.setdefault(record, {}) if record else values)[field] = value
    return values


def refusal(name: str, value: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        config.convert(with_setting(name, value))
    return str(refused.value)


def settings() -> Iterator[tuple[str, Any]]:
    """Yield every setting that a file can hold, with its type."""
    for record, kind in RECORDS.items():
        for field, hint in get_type_hints(kind, include_extras=True).items():
            name = f"{record}.{field}" if record else field
            if name not in spec.STORED_ONLY:
                yield name, hint


ALL = dict(settings())
BOUNDED = {name: get_args(hint)[1] for name, hint in ALL.items() if get_origin(hint) is Annotated}
CHOICES = {name: get_args(hint) for name, hint in ALL.items() if get_origin(hint) is Literal}


# ---- wrong values ----------------------------------------------------------------------------------------------------


def test_the_words_for_a_misspelt_mode() -> None:
    assert refusal("mode", "lve") == "the spec: mode: got 'lve'; expected 'live' or 'gated'"


@pytest.mark.parametrize("name", ALL)
def test_a_value_of_the_wrong_type_is_refused(name: str) -> None:
    said = refusal(name, {"is": {"no": "setting"}} if name not in ("model", *RECORDS) else 17)
    if name == "schema.fields":
        assert said == "the spec: schema.fields.is: got {'no': 'setting'}; expected text"
    elif name == "schema.dates":
        assert said == "the spec: schema.dates.is: got {'no': 'setting'}; expected 'day first' or 'month first'"
    elif name == "schema.missing":
        assert said.startswith("the spec: schema.missing.is: got {'no': 'setting'}; expected a list")
    elif name in ("gate.guards", "schema.origin"):
        assert said == f"the spec: {name}.is: got {{'no': 'setting'}}; expected a number"
    elif name == "schema.action_fields":
        assert said == "the spec: schema.action_fields.is: got {'no': 'setting'}; expected 'numeric' or 'boolean'"
    elif name == "decision.costs":
        assert said == "the spec: decision.costs.is.no: got 'setting'; expected a number of at least 0"
    else:
        assert said.startswith(f"the spec: {name}: got ")
        assert "; expected " in said


@pytest.mark.parametrize("name", CHOICES)
def test_a_wrong_choice_is_refused_with_all_right_ones(name: str) -> None:
    said = refusal(name, "wrong")
    assert said.startswith(f"the spec: {name}: got 'wrong'; expected ")
    assert [repr(one) in said for one in CHOICES[name]] == [True] * len(CHOICES[name])


@pytest.mark.parametrize("name", BOUNDED)
def test_a_value_out_of_range_is_refused_with_the_range(name: str) -> None:
    meta: msgspec.Meta = BOUNDED[name]
    low = meta.ge if meta.ge is not None else meta.gt
    assert low is not None
    below = low - 1 if meta.ge is not None else low
    assert refusal(name, below).startswith(f"the spec: {name}: got {below!r}; expected a ")
    assert str(low) in refusal(name, below).partition("; ")[2]
    high = meta.le if meta.le is not None else meta.lt
    if high is not None:
        above = high + 1 if meta.le is not None else high
        assert str(high) in refusal(name, above).partition("; ")[2]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "schema: missing; expected a table of settings"),
        ({"schema": {"task": "binary", "fields": {}}}, "schema.label: missing; expected text"),
        ({"schema": SCHEMA, "gate": 3}, "gate: got 3; expected a table of settings"),
        (with_setting("gate.minimum", 0), "gate.minimum: got 0; expected a whole number of at least 1"),
        (with_setting("gate.alpha", 1.0), "gate.alpha: got 1.0; expected a number above 0 and below 1"),
        (with_setting("schema.bits", 40), "schema.bits: got 40; expected a whole number of at least 8 and at most 28"),
        (with_setting("serve.hosts", "a"), "serve.hosts: got 'a'; expected a list (text each)"),
        (
            with_setting("feedback.default", []),
            "feedback.default: got []; expected true or false, a whole number, a number or text",
        ),
    ],
)
def test_the_words_for_a_wrong_value(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.convert(values)
    assert str(refused.value) == f"the spec: {says}"


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str) -> None:
    record, _, field = name.rpartition(".")
    misspelt = f"{field[:2]}{field[3:]}x" if len(field) > 4 else f"{field}{field[-1]}"
    full = f"{record}.{misspelt}" if record else misspelt
    assert refusal(full, 1) == f"the spec: {full}: unknown setting; did you mean {name!r}?"


def test_a_setting_in_the_wrong_table_is_found() -> None:
    assert refusal("minimum", 5) == "the spec: minimum: unknown setting; did you mean 'gate.minimum'?"
    assert refusal("serve.durability", 5).endswith("; did you mean 'log.durability'?")


def test_a_name_like_no_other_is_refused_with_all() -> None:
    said = refusal("replay.zzzzzz", 5)
    assert said == "the spec: replay.zzzzzz: unknown setting; expected one of kind, bytes"


@pytest.mark.parametrize("name", config._REMOVED)
def test_a_removed_setting_is_refused_in_a_file(name: str, tmp_path: Path) -> None:
    text = config.text(config.convert({"schema": SCHEMA}))
    record, _, field = name.rpartition(".")
    added = f"[{record}]\n{field} = 1\n" if record else ""
    (tmp_path / "everlearn.toml").write_text(("" if record else f"{field} = 1\n") + text + added)
    with pytest.raises(ConfigError, match=rf"everlearn.toml: {name}: this setting was removed\. Remove it: "):
        config.load(tmp_path / "everlearn.toml")


def test_what_only_stored_specs_have_is_refused_in_a_file() -> None:
    assert refusal("schema.layout", 1).endswith(
        "schema.layout: this is no setting. Remove it: only stored specs have it"
    )


def test_a_file_of_all_settings_reads_back(tmp_path: Path) -> None:
    given = config.convert({"schema": SCHEMA, "mode": "live", "gate": {"guards": {"recall:1": 0.5}}, "tick": 7})
    config.save(given, tmp_path / "everlearn.toml")
    assert config.load(tmp_path / "everlearn.toml") == given
    assert config.text(config.settled(given)) == config.text(given)


# ---- stored specs ----------------------------------------------------------------------------------------------------


def test_a_stored_spec_holds_every_setting_and_its_format() -> None:
    given = config.convert({"schema": SCHEMA, "model": {"family": "auto"}})
    held = config.stored(given)
    assert held["format"] == config.FORMAT
    assert (held["schema"]["layout"], held["model"]["layout"]) == (1, 6)
    for record, kind in RECORDS.items():
        table = held[record] if record else held
        assert {field.name for field in msgspec.structs.fields(kind)} <= table.keys()
    assert config.read_stored(json.loads(json.dumps(held)), "home") == given


def test_a_stored_spec_does_not_depend_on_the_defaults_of_this_release() -> None:
    """Every default of release 0.1.0 is filled in from its own table, and is complete."""
    old = release_0_1_0.DEFAULTS
    for record, kind in RECORDS.items():
        table = old[record] if record else old
        optional = {field.name for field in msgspec.structs.fields(kind) if not field.required}
        assert optional == table.keys() - ({"schema"} if not record else set())
    read = config.read_stored({"schema": SCHEMA}, "home")
    assert (read.mode, read.tick, read.gate.minimum, read.limits.window, read.log.rows) == (
        "gated",
        100,
        500,
        1000,
        "auto",
    )


def test_a_removed_setting_of_an_old_home_is_kept() -> None:
    old = {"schema": SCHEMA, "epochs": 3, "replay": {"width": 4}, "limits": {"window": 100}, "log": {"rows": "always"}}
    read = config.read_stored({**old, "serve": {"body": 5, "batch": 6, "port": 1}}, "home")
    assert (read.replay.width, read.limits.window, read.log.rows, read.serve.port) == (4, 100, "always", 1)
    now = config.resumed(read, config.convert({"schema": SCHEMA, "serve": {"port": 1}}))
    assert now == read
    assert config.changed(read, now, "home") == []
    assert config.read_stored(config.stored(now), "home") == now


def test_a_home_without_rules_for_losses_keeps_those_of_release_0_1_0() -> None:
    held = config.stored(config.convert({"schema": SCHEMA}))
    assert config.read_stored(held, "home").gate == spec.GateSpec()
    del held["gate"]["layout"], held["gate"]["own"]
    for old in (held, {"schema": SCHEMA}):
        read = config.read_stored(old, "home")
        assert (read.gate.layout, read.gate.own) == (1, None)
        assert config.resumed(read, config.convert({"schema": SCHEMA})).gate == read.gate


def test_a_home_keeps_the_loss_of_its_model() -> None:
    gate = spec.GateSpec(own=Loss("pinball", 0.95))
    before = spec.Spec(schema=spec.Schema(**{**SCHEMA, "classes": (0, 1)}), gate=gate)
    held = json.loads(json.dumps(config.stored(before)))
    assert config.read_stored(held, "home").gate == gate
    assert config.resumed(before, config.convert({"schema": SCHEMA})).gate == gate


def test_a_home_keeps_its_layouts() -> None:
    schema, model = spec.Schema(**{**SCHEMA, "classes": (0, 1)}, layout=7), {"family": "linear", "layout": 7}
    before = spec.Spec(schema=schema, model=model)
    now = config.resumed(before, config.convert({"schema": SCHEMA}))
    assert (now.schema.layout, now.model["layout"]) == (7, 7)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 2}, "spec format: got 2; expected at most 1"),
        ({"schema": {**SCHEMA, "layout": 2}}, "schema.layout: got 2; expected at most 1"),
        ({"gate": {"layout": 3}}, "gate.layout: got 3; expected at most 2"),
        ({"model": {"family": "linear", "layout": 7}}, "model.layout: got 7; expected at most 6"),
    ],
)
def test_a_stored_spec_of_a_newer_release_is_refused(changes: dict[str, Any], says: str) -> None:
    held = config.stored(config.convert({"schema": SCHEMA})) | changes
    with pytest.raises(LogError) as refused:
        config.read_stored(held, "a.home")
    assert str(refused.value) == f"a.home is of a newer release: {says}. Upgrade Everlearn"


def test_a_stored_spec_with_an_unknown_setting_is_refused() -> None:
    held = config.stored(config.convert({"schema": SCHEMA})) | {"colour": "red"}
    with pytest.raises(LogError, match=r"the spec stored in a\.home cannot be read: colour: unknown setting"):
        config.read_stored(held, "a.home")


def test_encoders_and_families_refuse_a_layout_they_do_not_know() -> None:
    with pytest.raises(ConfigError, match=r"schema\.layout: got 2; this release encodes rows in layouts 1 to 1"):
        Encoder(spec.Schema(**{**SCHEMA, "classes": (0, 1)}, layout=2))
    shape = {"task": "binary", "dense": 1, "hashed": 0, "classes": 2}
    for family in ("linear", "neural", "gated"):
        with pytest.raises(ConfigError, match=rf"model\.layout: got 7; family '{family}' has layouts 1 to 6"):
            el.build({"family": family, "layout": 7}, shape)
    assert "layout" not in el.build({"family": "linear", "layout": 1}, shape).spec


@pytest.mark.parametrize("name", ["epochs", "replay.width", "serve.body"])
def test_the_file_of_an_existing_home_may_name_settings_that_were_removed(tmp_path: Path, name: str) -> None:
    record, _, field = name.rpartition(".")
    table = {field: 2} if not record else {record: {field: 2}}
    values: dict[str, Any] = {"schema": {**SCHEMA, "classes": [0, 1]}, **table}
    with pytest.raises(ConfigError, match=f"{name}: this setting was removed"):
        config.convert(values, folder=tmp_path)
    (tmp_path / "log.sqlite").touch()
    assert config.convert(values, folder=tmp_path) == config.convert({"schema": values["schema"]})


# ---- preferences -----------------------------------------------------------------------------------------------------

PAIRS: dict[str, Any] = {"label": "chosen", "task": "preference", "fields": {"prompt": "text"}, "vocabulary": 9}


def test_preferences_have_their_own_defaults_and_a_file_may_set_others(tmp_path: Path) -> None:
    language = {"schema": PAIRS, "model": {"family": "preference"}}
    plain = config.convert(language)
    assert (plain.tick, plain.gate.minimum, plain.replay.bytes) == (16, 50, 64 << 20)
    usual = {"tick": 100, "gate": {"minimum": 500, "alpha": 0.1}, "replay": {"bytes": 1 << 20}}
    given = config.convert({**language, **usual})
    assert (given.tick, given.gate.minimum, given.gate.alpha, given.replay.bytes) == (100, 500, 0.1, 1 << 20)
    for one in (plain, given):
        config.save(one, tmp_path / "everlearn.toml")
        assert config.load(tmp_path / "everlearn.toml") == one
        assert config.read_stored(json.loads(json.dumps(config.stored(one))), "home") == one
    assert "replay" not in config.text(config.convert({"schema": SCHEMA}))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("warm_start", 100.0, "it trains on records with labels"),
        ("class_weight", "balanced", "which answer comes first is chance"),
        ("gate.guards", {"recall:1": 0.1}, "which answer comes first is chance"),
        ("decision.rate", 0.5, "which answer comes first is chance"),
        ("drift.watch", "inputs", "so only losses can be watched"),
        ("feedback.default", 0, "a judgement that has not come is no judgement"),
        ("limits.clip", 0.01, "the columns of a pair are lengths and names"),
        ("limits.quarantine", 0.99, "models weigh each annotator"),
        ("metrics.segment", "prompt", "rows have groups instead"),
        ("serve.canary", 0.1, "a candidate is compared in duels"),
        ("feedback.correction", "importance", "which has none; expected 'learn' or 'ignore'"),
    ],
)
def test_settings_without_a_meaning_for_preferences_are_refused(name: str, value: Any, why: str) -> None:
    values = with_setting(name, value) | {"schema": PAIRS}
    record = name.partition(".")[0]
    with pytest.raises(ConfigError, match=f"the spec: {record}.*for the task 'preference', .*{why}"):
        config.convert(values)
    with pytest.raises(ConfigError, match=why):
        config.settled(msgspec.convert(values, spec.Spec))
