"""A tree in words: what it says is what the model does, in the units of the user's columns."""

from __future__ import annotations

import re

import numpy as np
import pytest

from everlearn import model as models
from everlearn.errors import InputError
from everlearn.export import dot, entry_names, text
from everlearn.families import frozen
from everlearn.schema import Encoder
from everlearn.spec import Schema
from tests.support.learned_models import fresh, taught


def read_leaf(lines: list[str], record: dict[str, object]) -> str:
    """Follow the text of a tree for a record, as a person would; return the line of the leaf."""
    depth, at = 0, 0
    while True:
        here = lines[at].removeprefix("|   " * depth).removeprefix("|--- ")
        if "(weight" in here:
            return here
        name, sign, cut = re.fullmatch(r"(\w+) (<=|is) ([\w.]+)(?: or missing)?", here).groups()  # type: ignore[union-attr]
        value = record.get(name)
        if value is None:
            left = here.endswith("or missing")
        else:
            left = float(value) <= float(cut) if sign == "<=" else str(value).lower() == cut  # type: ignore[arg-type]
        depth += 1
        at += 1
        if not left:
            bar = "|   " * (depth - 1) + "|--- "
            at = next(i for i in range(at, len(lines)) if lines[i].startswith(bar)) + 1


def test_a_reader_of_the_text_finds_the_leaf_of_the_model() -> None:
    model, encoder = taught("forest", "binary")
    records, batch = fresh(encoder, 100)
    tree = frozen.tree(model, 2)
    lines = text(model, encoder.schema, 2, depth=50).splitlines()
    none = np.zeros(0, np.int32), np.zeros(0, np.float32)
    for i, record in enumerate(records):
        leaf = frozen.leaf_of(tree, frozen.rights(tree, batch.dense[i], *none))
        order = np.argsort(-tree.answers[leaf], kind="stable")
        shares = ", ".join(f"{('no', 'yes')[k]}: {tree.answers[leaf][k]:.2f}" for k in order)
        assert read_leaf(lines, record) == f"{shares} (weight {tree.weights[leaf]:,.0f})"


def test_thresholds_are_in_the_units_of_the_field() -> None:
    model, encoder = taught("tree", "binary")  # the encoder subtracts 3,000 from amount
    cuts = [float(cut) for cut in re.findall(r"amount <= ([\d.]+)", text(model, encoder.schema, depth=9))]
    assert len(cuts) >= 1
    assert all(3000.0 < cut < 3500.0 for cut in cuts)


def test_a_cut_tree_says_what_lies_below() -> None:
    model, encoder = taught("forest", "multiclass")
    whole = text(model, encoder.schema, 0, depth=60)
    cut = text(model, encoder.schema, 0, depth=1)
    below = sum(int(n) for n in re.findall(r"cut here, (\d+) leaves below", cut))
    ends = sum("(weight" in line and "cut here" not in line for line in cut.splitlines())
    assert below + ends == sum("(weight" in line for line in whole.splitlines())


def test_categories_and_words_are_named_where_rows_show_them() -> None:
    model, encoder = taught("tree", "binary", hashed=True)
    known, _ = fresh(encoder, 300)
    names = entry_names(encoder.schema, known)
    shown = text(model, encoder.schema, depth=9, entries=names)
    assert re.search(r"country is (NL|BE|DE)|note has \w+", shown)
    assert re.search(r"entry \d+ is present", text(model, encoder.schema, depth=9))
    for index, name in names.items():
        field, verb, value = name.split()[:3]
        assert verb == {"country": "is", "note": "has"}[field]
        assert index in encoder.record({field: value}).indices


def test_all_words_and_marks_of_a_text_are_named() -> None:
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"note": "text"})
    cell = {"note": "WIN £1,000 now!! NULL nan ? ÉTÉ été a_b - don't\u00a0go"}
    names, row = entry_names(schema, [cell]), Encoder(schema).record(cell)
    assert {int(index) for index in row.indices} == set(names)
    assert {names[int(row.indices[place])] for place in (0, 2)} == {"note has win", "note has ,"}


def test_pairs_of_categories_are_named_as_well() -> None:
    schema = Schema(
        label="y", task="binary", classes=(0, 1), fields={"a": "categorical", "b": "categorical"}, interactions=True
    )
    names = entry_names(schema, [{"a": "x", "b": 7}])
    row = Encoder(schema).record({"a": "x", "b": 7})
    assert [names[int(index)] for index in row.indices] == ["a is x", "b is 7", "a is x and b is 7"]


def test_moments_and_truth_values_are_written_as_such() -> None:
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"at": "datetime", "ok": "boolean"})
    encoder = Encoder(schema)
    rows, _ = encoder.records([{"at": f"20{10 + i % 10}-06-15", "ok": i % 2 == 0} for i in range(3000)])
    for y, expected in (
        (np.arange(3000) % 10 > 4, r"years since 2000\] <= 1[45]\.\d+ \(201[45]-"),
        (np.arange(3000) % 2, "ok is false"),
    ):
        model = models.build({"family": "tree"}, encoder.shape)
        model.learn(rows, y.astype(float), np.ones(3000, np.float32))
        assert re.search(expected, text(model, schema, depth=4))


def test_the_dot_form_has_the_same_nodes() -> None:
    model, encoder = taught("forest", "binary")
    lines = dot(model, encoder.schema, 1, depth=2).splitlines()
    nodes = [line for line in lines if "[label=" in line and "->" not in line]
    edges = [line for line in lines if "->" in line]
    assert len(edges) == len(nodes) - 1
    assert lines[0] == "digraph tree {"
    assert lines[-1] == "}"


def test_a_model_without_trees_is_refused() -> None:
    model, encoder = taught("linear", "binary")
    with pytest.raises(InputError, match="which has no trees; expected one of forest, mondrian, tree"):
        text(model, encoder.schema)
