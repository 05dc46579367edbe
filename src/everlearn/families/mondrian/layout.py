"""The positions of numbers in the arrays of Mondrian trees, and the sizes of these arrays for a budget of bytes.

Each tree has one pool of nodes, which come in pairs of siblings; the first has an even number. The root is node 0. A
node has five int32 (its test, its first child, its parent, and the row that visited it last), two float64 (time, and
odds of its subtree against itself), the weight of each class and of all, and the box of the rows that it has seen:
lowest and highest value of each column. Only learning needs the boxes, which are most of the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

# a row of `nodes`; the threshold is the bits of a float32
COLUMN, CUT, LEFT, PARENT, SEEN, LINKS = range(6)
NONE = -1  # no node
# a row of `beliefs`
TIME, ODDS, BELIEFS = range(3)
# of numbers: mean and mean square about it, running quantile, and weight at which slopes are solved for
MEAN, SQUARES, SHIFT, SOLVE, NUMBER_BELIEFS = range(2, 7)
# of `boxes`
LOWEST, HIGHEST, SIDES = range(3)
# a row of `trees`; then come the sizes of ADWIN's rows
USED_PAIRS, HAND, DRAWS, RESETS, SIZES = range(5)
# the rows of `moments`: of each dense column of the stream
COUNT, CENTRE, DEVIATIONS, MOMENTS = range(4)
# settings of kernels; trees FIRST, FIRST + STEP, ... are trained, the others only vote
SEED, PRIOR, DETECTS, QUANTILE, FIRST, STEP, SETTINGS = range(7)
# `target`, of numbers
SEEN_TARGETS, ORIGIN, UNIT, TARGET_MEAN, FLOOR, CEILING, TARGET = range(7)
# after ADWIN in a row of `windows`, of numbers
ERRORS, ERRORS_SEEN, LOSS, WATCHED = range(4)

WINDOW_ROWS, WINDOW_BUCKETS, WINDOW_SUMS = 32, 6, 6  # of ADWIN, see `everlearn.drift.detectors`
WINDOW = WINDOW_ROWS * 2 * WINDOW_BUCKETS
LEAST_NODES = 8
MOST_COLUMNS = 128  # that a tree looks at
MOST_LINE = 40  # dense columns of a stream of numbers whose nodes have linear models
SKETCHED = 32  # columns of a tree that hashed entries are added up in


class PoolSizes(NamedTuple):
    """The sizes of one tree: dense columns, columns that hold hashed entries, and nodes."""

    drawn: int
    sketched: int
    nodes: int


def lined(classes: int, dense: int) -> int:
    """Return how many columns the linear models of nodes have: those of numbers, if they are not too many.

    >>> lined(0, 33), lined(0, 41), lined(2, 8)
    (33, 0, 0)
    """
    return dense if classes == 0 and dense <= MOST_LINE else 0


def node_sums(classes: int, dense: int) -> int:
    """Return the float32 sums of a node: of classes, or of a linear model; and its weight.

    Those of a linear model are means of columns, slopes, products with the target, and products of columns.
    """
    line = lined(classes, dense)
    return classes + 3 * line + line * (line + 1) // 2 + 1


def node_bytes(classes: int, dense: int, columns: int) -> int:
    """Return the bytes of one node that looks at so many columns, of classes, or of numbers if `classes` is 0.

    >>> node_bytes(7, 54, 54), node_bytes(0, 10, 10)
    (500, 492)
    """
    beliefs = BELIEFS if classes else NUMBER_BELIEFS
    return 4 * LINKS + 8 * beliefs + 4 * node_sums(classes, dense) + 4 * SIDES * columns


def window_floats(classes: int, dense: int) -> int:
    """Return the float64 numbers of one row of `windows`; those of numbers end with a number for each slope."""
    return WINDOW + WINDOW_SUMS + (0 if classes else WATCHED + lined(classes, dense))


def fixed_bytes(classes: int, dense: int, columns: int) -> int:
    """Return the bytes of one tree without its nodes."""
    return 8 * (window_floats(classes, dense) + SIZES + WINDOW_ROWS + 1) + 4 * columns


def shapes(memory: int, trees: int, most: int, classes: int, dense: int, hashed: int) -> PoolSizes:
    """Return the sizes of each of some trees of at most `most` nodes whose arrays take at most `memory` bytes.

    >>> shapes(24 << 20, 10, 4000, 2, 8, 0).nodes, shapes(24 << 20, 10, 4000, 2, 1000, 0).nodes
    (4000, 2342)
    """
    drawn, sketched = columns(dense, hashed)
    room = (memory // trees - fixed_bytes(classes, dense, drawn)) // node_bytes(classes, dense, drawn + sketched)
    return PoolSizes(drawn, sketched, 2 * (max(min(room, most), 0) // 2))


def columns(dense: int, hashed: int) -> tuple[int, int]:
    """Return how many dense columns a tree looks at, and how many columns it has for hashed entries."""
    return min(dense, MOST_COLUMNS), SKETCHED if hashed else 0


def needed(trees: int, classes: int, dense: int, hashed: int, nodes: int = LEAST_NODES) -> int:
    """Return the bytes that some trees need for a number of nodes each."""
    drawn, sketched = columns(dense, hashed)
    return trees * (fixed_bytes(classes, dense, drawn) + nodes * node_bytes(classes, dense, drawn + sketched))
