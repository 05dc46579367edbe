"""A sample sees every stretch of a stream, without a regular stride, and does not depend on how it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.stream.sampling import Sampler


def sampled(rows: int, block: int, most: int = 1_000) -> Sampler:
    sampler = Sampler(most)
    for start in range(0, rows, block):
        sampler.add({"x": np.arange(start, min(start + block, rows))}, min(block, rows - start))
    return sampler


@pytest.mark.parametrize("rows", [10, 2_000, 2_001, 100_000])
def test_one_row_of_each_stretch(rows: int) -> None:
    sampler = sampled(rows, 512)
    kept = np.array(sampler.columns["x"])
    assert kept.tolist() == sampler.sample.places.tolist()
    assert min(rows, 1_000) <= len(kept) <= 2_000
    stretch = 1 << max(0, int(np.ceil(np.log2(rows / 2_000))))
    full = kept[: rows // stretch]
    assert (full // stretch).tolist() == list(range(len(full)))


@pytest.mark.parametrize("period", [2, 3, 7, 8, 12, 24, 64, 168])
def test_no_period_agrees_with_the_choice(period: int) -> None:
    kept = np.array(sampled(100_000, 8_192).columns["x"])
    shares = np.bincount(kept % period, minlength=period) / len(kept)
    assert np.abs(shares * period - 1).max() < 5 * np.sqrt(period / len(kept))


def test_blocks_do_not_matter() -> None:
    assert sampled(30_000, 100).columns == sampled(30_000, 7_919).columns
