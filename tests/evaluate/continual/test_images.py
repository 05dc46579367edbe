"""Changes of images: permutations, and rotations against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage

from everlearn.errors import ConfigError
from everlearn.evaluate import continual
from tests.support.task_streams import held_out, whole


def test_a_permutation_is_the_same_for_all_rows_of_a_task_and_another_in_each() -> None:
    random = np.random.default_rng(0)
    train = random.normal(size=(50, 6, 5)).astype(np.float32), np.arange(50) % 2
    test = random.normal(size=(20, 6, 5)).astype(np.float32), np.arange(20) % 2
    stream = continual.permuted(train, test, tasks=4, seed=3)
    found = []
    for task in range(4):
        x, _ = held_out(stream, task)
        first = test[0].reshape(20, -1)
        order = np.array([np.flatnonzero(first[0] == value)[0] for value in x[0]])
        np.testing.assert_array_equal(x, first[:, order])
        begin = 50 * task
        rows, source = whole(stream, begin, begin + 50), stream.order[begin : begin + 50, 1]
        np.testing.assert_array_equal(rows.batch.dense, train[0].reshape(50, -1)[source][:, order])
        found.append(tuple(order))
    assert found[0] == tuple(range(30))
    assert len(set(found)) == 4


@pytest.mark.parametrize("angle", [0, 18, 90, 137.5, 180, -30])
@pytest.mark.parametrize("shape", [(9, 9), (3, 8, 11)])
def test_a_rotation_is_that_of_scipy(angle: float, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((6, *shape)).astype(np.float32)
    stream = continual.rotated((x, np.arange(6) % 2), (x, np.arange(6) % 2), angles=(angle,))
    got, _ = held_out(stream, 0)
    expected = scipy.ndimage.rotate(x, angle, axes=(-1, -2), reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(got, expected.reshape(6, -1), atol=2e-6)


def test_whole_pixels_stay_whole_and_flat_images_are_told_their_size() -> None:
    x = np.random.default_rng(0).integers(0, 256, (7, 144), dtype=np.uint8)
    stream = continual.rotated((x, np.arange(7) % 2), (x, np.arange(7) % 2), angles=(0, 30), image=(12, 12))
    got, _ = held_out(stream, 1)
    expected = scipy.ndimage.rotate(
        x.reshape(7, 12, 12).astype(float), 30, axes=(-1, -2), reshape=False, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(got, np.rint(expected).reshape(7, -1), atol=1)
    assert (got == np.rint(expected).reshape(7, -1)).mean() > 0.99  # a half may be rounded either way
    assert set(np.unique(got)) <= set(range(256))
    with pytest.raises(ConfigError, match="flat rows with image="):
        continual.rotated((x, np.arange(7) % 2), (x, np.arange(7) % 2))
