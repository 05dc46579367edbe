"""The positions of numbers in the arrays of trees, and the sizes of these arrays for a budget of bytes.

Each tree has one pool, from which it and its background tree take nodes and blocks. A node is four int32: the column
of its test (or -1 less a hashed index), the threshold as the bits of a float32, the left child (the right one is the
next node), and the side of missing values. In a leaf the third is -1 less the number of its block, or `INACTIVE`. A
block holds the observers of one leaf, contiguous: a head, then for each class five numbers of each column that the
leaf has drawn, then hashed entries, and last what naive Bayes keeps to answer quickly, where it draws variances towards
those of the leaf's parent. In a tree of numbers (task "regression") a block has, after its head, the cells of
each column, then the sums of a linear model, then hashed entries.
"""

from __future__ import annotations

from typing import NamedTuple

# a row of `nodes`
COLUMN, CUT, LEFT, SIDE = range(4)
INACTIVE = -(1 << 30)  # in the place of a block: the leaf only counts classes
# a row of `trees`; then come the sizes of ADWIN's rows
ROOT, BACKGROUND, FREE_PAIR, USED_PAIRS, FREE_BLOCK, USED_BLOCKS, SERIAL, SWAPS, SIZES = range(9)
NONE = -1
# the head of a row of `blocks`, and the parts of a class
NEXT, MAJORITY_RIGHT, BAYES_RIGHT, VISITS, HEAD = range(5)
WEIGHT, MEAN, SQUARES, LOWEST, HIGHEST, PARTS = range(6)
# the head of a row of `choices`; then come the columns and the hashed indices of the leaf
NODE, KEY, CHOICES = range(3)
# the rows of `moments`: of each column of the stream
COUNT, CENTRE, DEVIATIONS, ORIGIN, OTHER, KIND, MOMENTS = range(7)
CONSTANT, BINARY, NUMERIC = range(3)
# a prepared row: values less the origin, spread (numeric) or share of the second value (binary), the second value
VALUE, SPREAD, SECOND, PREPARED = range(4)
STATE, SEEN = range(PREPARED, PREPARED + 2)  # of the columns of a row or a leaf, in the first place
MISSING = 0.5  # in the state of columns of which one is missing, or has its third value now
# settings of kernels; BITS is log(1 / delta); QUANTILE is 0 for the squared loss, NORMAL the quantile in deviations;
# trees FIRST, FIRST + STEP, ... are trained, the others only vote
SEED, GRACE, BITS, TIE, SHRINK, RATE, SHARE, DETECTS, QUANTILE, NORMAL, FIRST, STEP, SETTINGS = range(13)

# trees of numbers: a row of `counts` (float64), and the head of a row of `blocks`; NEXT and VISITS are as above
NODE_WEIGHT, NODE_MEAN, NODE_SQUARES, NODE_SUMS = range(4)
MEAN_LOSS, LINE_LOSS = MAJORITY_RIGHT, BAYES_RIGHT
OWN, OWN_MEAN, OWN_SQUARES, AROUND, FLOOR, CEILING, MEAN_SHIFT, NUMBER_PART = range(HEAD, HEAD + 8)
SOLVE, LINE_SHIFT, LINE_START, LINE_WEIGHT, LINE_MEAN, NUMBER_HEAD = range(NUMBER_PART, NUMBER_PART + 6)
# the cells of a column in a block: width of a cell, number of the first one, then their weights, then their sums
CELLS = 32
WIDTH, BASE, FIRST_CELL = range(3)
COLUMN_FLOATS = FIRST_CELL + 2 * CELLS
ENTRY_SUMS = 2  # of a hashed entry: weight and sum
MOST_LINE = 32  # columns of the linear model of a leaf
# the row of a target: less the origin and in units; origin and unit of the stream, and its mean in units
TARGET, TARGET_ORIGIN, TARGET_UNIT, TARGET_MEAN, TARGETS = range(5)
ERRORS, ERRORS_SEEN, ERROR_SUMS = range(3)  # of a member of numbers, after ADWIN's sums in `windows`

WAYS = 4  # hashed entries of a leaf lie in buckets of four
WINDOW_ROWS, WINDOW_BUCKETS, WINDOW_SUMS = 32, 6, 6  # of ADWIN, see `everlearn.drift.detectors`
WINDOW = WINDOW_ROWS * 2 * WINDOW_BUCKETS
LEAST_BLOCKS = 4
NODES_PER_BLOCK = 4  # leaves beyond the blocks are inactive
MOST_BLOCKS = 1 << 20


class Shapes(NamedTuple):
    """The sizes of one tree: its columns for each leaf, hashed entries for each leaf, blocks and nodes."""

    drawn: int
    entries: int
    blocks: int
    nodes: int


def block_floats(classes: int, drawn: int, entries: int, columns: int = 0, quick: bool = False) -> int:
    """Return the float32 numbers of one block; if `classes` is 0, of a tree of numbers on so many columns.

    With `quick` a block has a scale for each class and column, two numbers for each class, a variance for each column,
    and one number more.
    """
    if classes == 0:
        line = min(columns, MOST_LINE)
        return NUMBER_HEAD + drawn * COLUMN_FLOATS + 3 * line + line * (line + 1) // 2 + entries * (1 + ENTRY_SUMS)
    scores = classes * drawn + 2 * classes + drawn + 1 if quick else 0
    return HEAD + PARTS * classes * drawn + entries * (1 + classes) + scores


def block_bytes(classes: int, drawn: int, entries: int, columns: int = 0, quick: bool = False) -> int:
    """Return the bytes that one more leaf needs, with its nodes."""
    numbers = block_floats(classes, drawn, entries, columns, quick) + CHOICES + drawn + entries
    return 4 * numbers + NODES_PER_BLOCK * (16 + (4 * classes or 8 * NODE_SUMS))


def window_floats(classes: int) -> int:
    """Return the float64 numbers of one row of `windows`."""
    return WINDOW + WINDOW_SUMS + (0 if classes else ERROR_SUMS)


def shapes(
    memory: int, trees: int, classes: int, drawn: int, entries: int, columns: int = 0, quick: bool = False
) -> Shapes:
    """Return the sizes of each of some trees whose arrays together take at most `memory` bytes.

    >>> shapes(1 << 20, 10, 2, 3, 0).blocks
    402
    """
    fixed = 8 * (window_floats(classes) + SIZES + WINDOW_ROWS + 1)
    blocks = (memory // trees - fixed) // block_bytes(classes, drawn, entries, columns, quick)
    blocks = min(max(blocks, 0), MOST_BLOCKS)
    return Shapes(drawn, entries, blocks, NODES_PER_BLOCK * blocks)


def needed(
    trees: int, classes: int, drawn: int, entries: int, blocks: int = LEAST_BLOCKS, columns: int = 0,
    quick: bool = False,
) -> int:  # fmt: skip
    """Return the bytes that some trees need for a number of blocks each."""
    fixed = 8 * (window_floats(classes) + SIZES + WINDOW_ROWS + 1)
    return trees * (fixed + blocks * block_bytes(classes, drawn, entries, columns, quick))
