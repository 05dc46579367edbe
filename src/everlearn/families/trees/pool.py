"""The pool of a tree: nodes in pairs, blocks of leaves, and what happens when none is left.

Free pairs and blocks are chained; those above the used ones were never touched. When no block is left, the background
tree is dropped; then the leaf that promises least is deactivated: it counts its rows and no more, and gets a block
again when one is free. Functions take the arrays of all trees and the number of a tree, since views of arrays cost more
than the work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import merged
from everlearn._random import uniform
from everlearn.families.kernel_parts import outlined, uncounted
from everlearn.families.trees.layout import (
    BACKGROUND,
    CHOICES,
    COLUMN,
    CUT,
    FREE_BLOCK,
    FREE_PAIR,
    GRACE,
    INACTIVE,
    KEY,
    LEFT,
    NEXT,
    NODE,
    NONE,
    SEED,
    SERIAL,
    SIDE,
    USED_BLOCKS,
    USED_PAIRS,
    VISITS,
)
from everlearn.records import Floats, Ints, Singles

Nodes = NDArray[np.int32]

DRAWN_COLUMNS = 0x5EED  # what the keys of draws of columns are mixed with


@uncounted
def take_pair(trees: Ints, t: int, nodes: Nodes) -> int:
    """Return the first of two free neighbouring nodes, or -1."""
    pair = trees[t, FREE_PAIR]
    if pair != NONE:
        trees[t, FREE_PAIR] = nodes[t, pair, LEFT]
    elif 2 * trees[t, USED_PAIRS] + 1 < nodes.shape[1]:
        pair = 2 * trees[t, USED_PAIRS]
        trees[t, USED_PAIRS] += 1
    return int(pair)


@uncounted
def take_block(trees: Ints, t: int, choices: Nodes) -> int:
    """Return a free block, or -1."""
    block = trees[t, FREE_BLOCK]
    if block != NONE:
        trees[t, FREE_BLOCK] = choices[t, block, KEY]
    elif trees[t, USED_BLOCKS] < choices.shape[1]:
        block = trees[t, USED_BLOCKS]
        trees[t, USED_BLOCKS] += 1
    return int(block)


@uncounted
def free_block(trees: Ints, t: int, choices: Nodes, block: int) -> None:
    """Put a block back."""
    choices[t, block, NODE] = NONE
    choices[t, block, KEY] = trees[t, FREE_BLOCK]
    trees[t, FREE_BLOCK] = block


@uncounted
def open_leaf(
    settings: Floats, drawn: int, columns: int, trees: Ints, t: int, nodes: Nodes, blocks: Singles, choices: Nodes,
    node: int, block: int,
) -> None:  # fmt: skip
    """Make a node a leaf with an empty block, and draw the columns that it looks at."""
    nodes[t, node, LEFT] = -1 - block
    for i in range(blocks.shape[2]):
        blocks[t, block, i] = 0.0
    for i in range(choices.shape[2]):
        choices[t, block, i] = NONE
    blocks[t, block, NEXT] = settings[GRACE]
    serial = trees[t, SERIAL]
    trees[t, SERIAL] += 1
    choices[t, block, NODE] = node
    choices[t, block, KEY] = serial & 0x7FFFFFFF
    have = 0
    for j in range(columns):
        chosen = drawn == columns
        if not chosen:
            u = uniform(int(settings[SEED]) ^ DRAWN_COLUMNS, t, serial * columns + j)
            chosen = u * (columns - j) < drawn - have
        if chosen:
            choices[t, block, CHOICES + have] = j
            have += 1


@outlined
def free_tree(trees: Ints, t: int, nodes: Nodes, choices: Nodes, place: int) -> None:
    """Put all nodes and blocks of the tree whose root is at `place` back."""
    found = np.empty(nodes.shape[1], np.int32)
    found[0] = trees[t, place]
    trees[t, place] = NONE
    seen, count = 0, 1
    while seen < count:
        left = nodes[t, found[seen], LEFT]
        seen += 1
        if left >= 0:
            found[count] = left
            found[count + 1] = left + 1
            count += 2
        elif left != INACTIVE:
            free_block(trees, t, choices, -1 - left)
    for i in range(count):
        if found[i] % 2 == 0:
            nodes[t, found[i], LEFT] = trees[t, FREE_PAIR]
            trees[t, FREE_PAIR] = found[i]


def room_finder(promised: Callable[..., float]) -> Callable[..., tuple[int, int]]:
    """Return the compiled search for room; `promised(counts, t, node, visits)` is what a leaf promises."""

    @uncounted
    def find_room(
        behind: bool, trees: Ints, t: int, nodes: Nodes, counts: Singles, blocks: Singles, choices: Nodes, least: float,
        pairs: int,
    ) -> tuple[int, int]:  # fmt: skip
        """Return a pair of nodes, if `pairs` is 1, and a block; -1 where there is none.

        The block is a free one, one of the background tree, or that of a leaf that promises less than `least`. A
        background tree takes nothing away from its tree.
        """
        pair, block = NONE, NONE
        for attempt in range(2):
            if pairs == 1 and pair == NONE:
                pair = take_pair(trees, t, nodes)
            if block == NONE and (pair != NONE or pairs == 0):
                block = take_block(trees, t, choices)
            full = block == NONE
            if attempt == 0 and full and not behind and trees[t, BACKGROUND] != NONE:
                free_tree(trees, t, nodes, choices, BACKGROUND)
        if block != NONE or behind or (pairs == 1 and pair == NONE):
            return pair, block
        for other in range(choices.shape[1]):
            if choices[t, other, NODE] == NONE:
                continue
            promise = promised(counts, t, choices[t, other, NODE], blocks[t, other, VISITS])
            blocks[t, other, VISITS] *= np.float32(0.5)
            if promise < least:
                block, least = other, promise
        if block != NONE:
            nodes[t, choices[t, block, NODE], LEFT] = INACTIVE
            choices[t, block, NODE] = NONE
        return pair, block

    return find_room


@merged
def plant(
    settings: Floats, drawn: int, columns: int, trees: Ints, t: int, nodes: Nodes, counts: Singles, blocks: Singles,
    choices: Nodes, place: int, pair: int, block: int,
) -> None:  # fmt: skip
    """Begin a tree with an empty leaf in a pair of nodes and a block, its root at `place`; leave it without a block."""
    if pair != NONE and block == NONE:
        nodes[t, pair, LEFT] = trees[t, FREE_PAIR]
        trees[t, FREE_PAIR] = pair
    if block != NONE:
        nodes[t, pair + 1, LEFT] = INACTIVE
        for k in range(counts.shape[2]):
            counts[t, pair, k] = 0.0
        open_leaf(settings, drawn, columns, trees, t, nodes, blocks, choices, pair, block)
        trees[t, place] = pair


@merged
def branch(
    settings: Floats, m: int, columns: int, trees: Ints, t: int, nodes: Nodes, blocks: Singles, choices: Nodes,
    node: int, pair: int, block: int, other: int, column: int, cut: float, side: int,
) -> None:  # fmt: skip
    """Make a leaf an inner node; its block goes to its left child, and `other`, if there is one, to its right child."""
    nodes[t, node, COLUMN] = column
    nodes[t, node, CUT] = np.float32(cut).view(np.int32)
    nodes[t, node, SIDE] = side
    nodes[t, node, LEFT] = pair
    nodes[t, pair + 1, LEFT] = INACTIVE
    open_leaf(settings, m, columns, trees, t, nodes, blocks, choices, pair, block)
    if other != NONE:
        open_leaf(settings, m, columns, trees, t, nodes, blocks, choices, pair + 1, other)
