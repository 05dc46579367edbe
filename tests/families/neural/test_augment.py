"""Changes of remembered rows: each row for itself, by chance that belongs to a generator, with its label still true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from everlearn.errors import ConfigError  # noqa: E402
from everlearn.families.neural import augment  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("name", "reach"), [("shift", 2), ("crop", 4)])
@pytest.mark.parametrize("shape", [(8, 9), (3, 8, 9)])
def test_each_image_is_moved_as_a_whole_and_filled_with_zeros(name: str, reach: int, shape: tuple[int, ...]) -> None:
    x = torch.rand((400, *shape)) + 1.0
    moved = augment.find(name)(x, generator())
    assert moved.shape == x.shape
    found = Counter()
    for one, other in zip(x.reshape(400, -1, 8, 9), moved.reshape(400, -1, 8, 9), strict=True):
        padded = np.pad(one.numpy(), ((0, 0), (reach, reach), (reach, reach)))
        places = [
            (down, right)
            for down in range(2 * reach + 1)
            for right in range(2 * reach + 1)
            if np.array_equal(padded[:, down : down + 8, right : right + 9], other.numpy())
        ]
        assert len(places) == 1
        found[places[0]] += 1
    down, right = (
        [sum(many for at, many in found.items() if at[i] == j) for j in range(2 * reach + 1)] for i in (0, 1)
    )
    assert stats.chisquare(down).pvalue > 0.001
    assert stats.chisquare(right).pvalue > 0.001


def test_half_of_the_images_are_mirrored() -> None:
    x = torch.rand(2000, 2, 3, 4)
    y = augment.find("flip")(x, generator())
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert bool((mirrored | (y == x).flatten(1).all(1)).all())
    assert 900 < int(mirrored.sum()) < 1100


def test_noise_is_normal() -> None:
    added = augment.find("noise")(torch.full((50, 200), 3.0), generator()) - 3.0
    assert stats.kstest(added.flatten().numpy(), "norm", args=(0.0, augment.NOISE)).pvalue > 0.001


@pytest.mark.parametrize("name", sorted(augment.NAMES))
def test_a_change_belongs_to_its_random_numbers_and_leaves_what_it_was_given(name: str) -> None:
    x = torch.rand(20, 6, 6)
    was, change = x.clone(), augment.find(name)
    one, again, other = change(x, generator(1)), change(x, generator(1)), change(x, generator(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(x, was)


def test_changes_are_found_by_name() -> None:
    assert augment.find("") is None
    assert augment.find("everlearn.families.neural.augment:shift") is augment.shift
    for name in (
        "turn",
        "no_such_module:turn",
        "everlearn.families.neural.augment:turn",
        "everlearn.families.neural.augment:SHIFT",
    ):
        with pytest.raises(ConfigError, match=r"memory\.augment: got "):
            augment.find(name)
    with pytest.raises(ConfigError, match="expected images"):
        augment.shift(torch.rand(5, 9), generator())
