"""Trees as plain arrays: the common form in which trees of all families are explained, drawn and exported.

A model with trees comes in; one `FrozenTree` for each member goes out, with its nodes in the order from the root down
(breadth first). `FAMILIES` names the function of each family that has trees. A mix has those of its members.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.errors import InputError, did_you_mean
from everlearn.model import Model
from everlearn.records import Floats, Singles

FAMILIES: dict[str, str] = {
    "tree": "everlearn.families.trees.freezing",
    "forest": "everlearn.families.trees.freezing",
    "mondrian": "everlearn.families.mondrian.freezing",
}

LEAF, DENSE, ENTRY, SUM = range(4)  # what a node tests: nothing, a dense column, a hashed entry, a sum of entries
FURTHEST = 1e15  # values are cut here before they are compared

Numbers = NDArray[np.int32]
Flags = NDArray[np.bool_]


class FrozenTree(NamedTuple):
    """A tree of n nodes, the root first; the children of a node are neighbours.

    `kinds` int8 (n,) says what each node tests: `LEAF`, `DENSE`, `ENTRY` or `SUM`. `columns` int32 (n,) is the dense
    column, the hashed index, or the number of the sum. `cuts` float32 (n,) and `origins` float64 (n,): a value less the
    origin, as float32, goes right where it is above the cut. A row that lacks a hashed entry goes right. `left` int32
    (n,) is the left child, -1 in a leaf; the right child is the next node. `missing` bool (n,) is true where a row
    without the value goes right. `answers` float64 (n, outputs) are the class probabilities or the number of each node,
    as if it were a leaf; `weights` float64 (n,) the rows that came to it. `places` int32 (n,) is where the family has
    the node.
    """

    kinds: NDArray[np.int8]
    columns: Numbers
    cuts: Singles
    origins: Floats
    left: Numbers
    missing: Flags
    answers: Floats
    weights: Floats
    places: Numbers


def names(model: Model) -> list[str]:
    """Return the names of the trees of a model, in order; empty for a model without trees.

    Trees of a forest have numbers. Those of a mix have the family of their member as well, and its place where several
    members are of one family.

    >>> from everlearn.model import build
    >>> names(build({"family": "forest", "task": "binary", "dense": 2, "trees": 3}))
    ['0', '1', '2']
    >>> names(build({"family": "auto", "task": "binary", "dense": 2}))[8:12]
    ['forest/8', 'forest/9', 'mondrian/0', 'mondrian/1']
    """
    return [name for name, _, _ in _trees(model)]


def tree(model: Model, name: str | int = 0) -> FrozenTree:
    """Return a tree of a model by its name, or by its number among all trees of the model.

    Raises `InputError` for a model without trees, and for an unknown name.

    >>> from everlearn.model import build
    >>> tree(build({"family": "mondrian", "task": "binary", "dense": 2})).answers.tolist()
    [[0.5, 0.5]]
    """
    found = list(_trees(model))
    if not found:
        raise InputError(
            f"tree: got a model of the family {model.spec.get('family')!r}, which has no trees; expected one of "
            f"{', '.join(sorted(FAMILIES))}, or a mix with one of them as a member"
        )
    known = [one for one, _, _ in found]
    if isinstance(name, int) and 0 <= name < len(found):
        place = name
    elif str(name) in known:
        place = known.index(str(name))
    else:
        raise InputError(
            f"tree: got {name!r}; expected 0 to {len(found) - 1}, or one of {', '.join(known)}"
            f"{did_you_mean(name, known)}"
        )
    _, member, number = found[place]
    return frozen(member, number)


def frozen(model: Model, number: int) -> FrozenTree:
    """Return tree `number` of a model of a family with trees."""
    return importlib.import_module(FAMILIES[model.spec["family"]]).frozen(model, number)  # type: ignore[no-any-return]


def count(model: Model) -> int:
    """Return how many trees a model of a family with trees has itself; 0 for other families."""
    return len(model.arrays["trees"]) if model.spec.get("family") in FAMILIES else 0


def members(model: Model) -> list[Model]:
    """Return the members of a mix; empty for other models."""
    return list(getattr(model, "members", ())) if model.spec.get("family") == "mix" else []


def still(model: Model) -> Model:
    """Return a copy of a model whose leaves answer with the constants that `frozen` gives.

    Leaves of Hoeffding trees then answer with the shares of their classes, or with their mean; other models answer as
    they did. The copy is for predictions alone.
    """
    family = model.spec.get("family")
    if family == "mix":
        return model.with_members([still(member) for member in members(model)])  # type: ignore[attr-defined,no-any-return]
    if family not in FAMILIES:
        return model
    return importlib.import_module(FAMILIES[family]).still(model)  # type: ignore[no-any-return]


def thresholds(found: FrozenTree) -> Singles:
    """Return the threshold of each node for values as encoded: the largest float32 that goes left, float32 (n,).

    >>> made = FrozenTree(*[np.zeros(1, kind) for kind in "bi"], np.float32([0.5]), np.array([1e6]), *[np.zeros(1)] * 5)
    >>> float(thresholds(made)[0])
    1000000.5
    """
    furthest = np.full(len(found.cuts), np.inf, np.float32)
    low, high = _order(-furthest), _order(furthest)
    for _ in range(33):
        middle = (low + high + 1) // 2
        left = less_origin(_ordered(middle), found.origins) <= found.cuts
        low, high = np.where(left, middle, low), np.where(left, high, np.maximum(middle - 1, low))
    return _ordered(low)


def less_origin(values: Singles, origins: Floats) -> Singles:
    """Return values less their origins, float32, as trees compare them."""
    return np.clip(values.astype(np.float64) - origins, -FURTHEST, FURTHEST).astype(np.float32)


def rights(found: FrozenTree, dense: Singles, present: NDArray[np.int32], sums: Singles) -> Flags:
    """Return where one row goes at each node, bool (n,): true is right.

    `dense` float32 (d,) is the encoded row, `present` the hashed indices whose values are not 0, `sums` float32 (s,)
    the sums of entries of this tree.
    """
    columns = found.columns
    values = np.zeros(len(columns), np.float32)
    dense_tests, sum_tests = found.kinds == DENSE, found.kinds == SUM
    values[dense_tests] = dense[columns[dense_tests]]
    values[sum_tests] = sums[columns[sum_tests]]
    known = np.isfinite(values)
    right = np.where(
        known, less_origin(np.where(known, values, np.float32(0.0)), found.origins) > found.cuts, found.missing
    )
    return np.where(found.kinds == ENTRY, ~np.isin(columns, present), right)


def leaf_of(found: FrozenTree, right: Flags) -> int:
    """Return the leaf to which a row goes."""
    node = 0
    while found.left[node] >= 0:
        node = int(found.left[node]) + int(right[node])
    return node


def depths(found: FrozenTree) -> NDArray[np.int64]:
    """Return the depth of each node, int64 (n,); the root has 0."""
    depth = np.zeros(len(found.left), np.int64)
    for node in range(len(depth)):  # a parent comes before its children
        left = found.left[node]
        if left >= 0:
            depth[left : left + 2] = depth[node] + 1
    return depth


@exact_kernel
def breadth_first(lefts: Numbers, root: int) -> tuple[Numbers, Numbers]:
    """Return the nodes of a pool below a root, breadth first, and the left child of each in this order; -1 in a leaf.

    `lefts` int32 (nodes,) has the left child of each node of the pool, below 0 in a leaf.

    >>> [part.tolist() for part in breadth_first(np.array([2, -1, -1, 4, -1, -1], np.int32), 0)]
    [[0, 2, 3, 4, 5], [1, -1, 3, -1, -1]]
    """
    order, left = np.empty(len(lefts), np.int32), np.empty(len(lefts), np.int32)
    order[0] = root
    seen, found = 0, 1
    while seen < found:
        below = lefts[order[seen]]
        left[seen] = -1
        if below >= 0:
            left[seen] = found
            order[found] = below
            order[found + 1] = below + 1
            found += 2
        seen += 1
    return order[:found].copy(), left[:found].copy()


@exact_kernel
def add_below(left: Numbers, sums: Floats) -> None:
    """Add to the row of each node, of float64 (n, k), the sums of all nodes below it."""
    for step in range(len(left)):
        node = len(left) - 1 - step
        if left[node] >= 0:
            for k in range(sums.shape[1]):
                sums[node, k] += sums[left[node], k] + sums[left[node] + 1, k]


def _trees(model: Model) -> Iterator[tuple[str, Model, int]]:
    """Yield name, model and number of each tree."""
    inner = members(model)
    families = [str(member.spec.get("family")) for member in inner]
    for place, member in enumerate(inner):
        family = families[place]
        name = family if families.count(family) == 1 else f"{place}.{family}"
        for number in range(count(member)):
            yield f"{name}/{number}", member, number
    for number in range(count(model)):
        yield str(number), model, number


def _order(values: Singles) -> NDArray[np.int64]:
    """Return whole numbers in the order of float32 numbers, without gaps between neighbours."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _ordered(places: NDArray[np.int64]) -> Singles:
    """Return the float32 numbers of places that `_order` gives."""
    bits = np.where(places < 0, -places | 0x80000000, places)
    return bits.astype(np.uint32).view(np.float32)
