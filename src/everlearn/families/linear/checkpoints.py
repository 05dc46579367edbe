"""Checkpoints of the moments of columns, which undo what a bad stretch of values did to them.

A sensor that reports in other units for an hour makes the deviation of its column a hundred times too large, and mean
and deviation over all rows would keep that for as long again. So each column keeps a checkpoint: its moments at the end
of the newest calm block of `BLOCK` rows. Where a block ends and the variance has since grown by more than `GROWN`, the
checkpoint stays. If values then come back to it, the moments become those of the checkpoint, and the stretch is
forgotten. If the stretch has lasted as long as the column before it, or `LONGEST` values, it is the new normal.

A stretch is bad only where its values are further away than any value before them can have been: the squares of n
values sum to n variances, so that none is further than the root of that. Without this, indicators that come in bursts
were reset hundreds of times on covtype20k, and its log loss rose from .521 to .534.

Nothing is done for a single row: the values of a block are what its moments at the end have more than at its start. A
column without such a stretch has the moments of all its values, to the bit. A memory that forgets all old values alike
was worse: with 20,000 values the log loss on Elec2 rose from .300 to .304, with 5,000 to .322.

The array `moments` is float64 (9, columns + 1): count, mean and sum of squared deviations, the same three where the
block began, the same three at the checkpoint. The last column, of the numbers to predict, has no checkpoint.
"""

from __future__ import annotations

from everlearn._jit import inlined, outlined
from everlearn.records import Floats

ROWS = 9  # of the array `moments`
START, CHECKPOINT = 3, 6  # the first rows of the moments where the block began, and at the checkpoint
BLOCK = 64  # rows
LEAST_BLOCK = 32.0  # values; a column with fewer, since others were missing, goes on with its block
GROWN = 16.0  # growth of the variance since the checkpoint that is no calm block
FAR = 1e4  # mean square of a bad stretch, in variances of the checkpoint; fewer where it counts fewer values
BACK = 4.0  # mean square around the checkpoint, in its variances, of values that are back
NEARER = 64.0  # the same, as a share of the present variance: columns with a trend do not come back all the way
LONGEST = 10_000.0  # values of a stretch


@outlined
def end_block(moments: Floats) -> bool:
    """Compare the block of each column with its checkpoint, and begin the next block.

    Return True if the moments of a column went back to the checkpoint.
    """
    back = False
    for j in range(moments.shape[1] - 1):
        n, m2 = moments[0, j], moments[2, j]
        held = n - moments[START, j]
        if held < LEAST_BLOCK:
            continue
        saved_n, saved_m2 = moments[CHECKPOINT, j], moments[CHECKPOINT + 2, j]
        calm = saved_m2 <= 0.0 or m2 * saved_n <= GROWN * saved_m2 * n
        if calm or n - saved_n >= min(saved_n, LONGEST):
            for row in range(3):
                moments[CHECKPOINT + row, j] = moments[row, j]
        else:
            before, now = squares_around(moments, START, j), squares_around(moments, 0, j)
            far = before * saved_n > (n - held - saved_n) * saved_m2 * min(saved_n, FAR)
            if far and ((now - before) * saved_n <= BACK * saved_m2 * held or NEARER * (now - before) * n <= m2 * held):
                for row in range(3):
                    moments[row, j] = moments[CHECKPOINT + row, j]
                back = True
        for row in range(3):
            moments[START + row, j] = moments[row, j]
    return back


@inlined
def squares_around(moments: Floats, row: int, j: int) -> float:
    """Sum the squared distances from the checkpoint's mean, of values from the checkpoint to the moments at `row`."""
    away = moments[row + 1, j] - moments[CHECKPOINT + 1, j]
    squares: float = moments[row + 2, j] + moments[row, j] * away * away - moments[CHECKPOINT + 2, j]
    return squares
