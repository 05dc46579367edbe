"""Changes of images, as functions of a batch of rows: a permutation of the pixels, or a rotation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Change = Callable[[NDArray[Any]], NDArray[Any]]
PERMUTE = 7  # key of the random numbers of permutations


def permutation(columns: int, seed: int, number: int) -> Change:
    """Return a function that permutes the columns of rows (n, ...); the permutation is fixed by (seed, number).

    >>> permutation(3, seed=0, number=1)(np.array([[5, 6, 7]])).tolist()
    [[6, 7, 5]]
    """
    order = np.random.default_rng([seed, PERMUTE, number]).permutation(columns)

    def change(x: NDArray[Any]) -> NDArray[Any]:
        """Return the changed rows, of the same shape."""
        return x.reshape(len(x), -1)[:, order].reshape(x.shape)

    return change


def rotation(angle: float, size: tuple[int, int]) -> Change:
    """Return a function that rotates images anticlockwise by `angle` degrees about their middle.

    `size` is (height, width) of rows (n, ...). Each pixel is the bilinear mean of its four source pixels, with 0
    outside the image. Integer dtypes are rounded, so that uint8 stays uint8; others become float32.

    >>> rotation(90, (2, 2))(np.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
    [[[2.0, 4.0], [1.0, 3.0]]]
    """
    places, shares = _sources(angle, size)

    def change(x: NDArray[Any]) -> NDArray[Any]:
        """Return the changed rows, of the same shape."""
        planes = x.reshape(-1, size[0] * size[1]).astype(np.float32)
        turned = sum(planes[:, place] * share for place, share in zip(places, shares, strict=True))
        turned = np.asarray(turned).reshape(x.shape)
        return np.rint(turned).astype(x.dtype) if x.dtype.kind in "iu" else turned

    return change


def _sources(angle: float, size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the four source pixels of each pixel, int64 (4, pixels), and the share of each, float32 (4, pixels)."""
    turn = math.radians(angle)
    # a quarter turn must not be off by the rounding of its cosine
    cos, sin = round(math.cos(turn), 15), round(math.sin(turn), 15)
    middle = np.array([[(size[0] - 1) / 2], [(size[1] - 1) / 2]])
    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")).reshape(2, -1)
    source = np.array([[cos, sin], [-sin, cos]]) @ (grid - middle) + middle
    corner = np.floor(source).astype(np.int64)
    rest = source - corner
    places, shares = [], []
    for down in (0, 1):
        for right in (0, 1):
            y, x = corner[0] + down, corner[1] + right
            inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
            share = np.abs(1 - down - rest[0]) * np.abs(1 - right - rest[1])
            places.append(np.where(inside, y * size[1] + x, 0))
            shares.append(np.where(inside, share, 0.0))
    return np.stack(places), np.stack(shares).astype(np.float32)
