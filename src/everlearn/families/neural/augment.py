"""Augmentations: random changes of remembered rows that keep their label, made each time rows are drawn.

Each is a function of rows (n, ...) and a random generator on their device, and returns rows of the same shape.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from everlearn._torch import Tensor, functional, torch
from everlearn.errors import ConfigError, did_you_mean

Augment = Callable[[Tensor, torch.Generator], Tensor]

SHIFT, CROP = 2, 4  # pixels
NOISE = 0.1  # standard deviation, in units of what the network is given


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image (n, ..., height, width) by up to 2 pixels in each direction; empty pixels are 0.

    >>> ones = torch.ones(1000, 1, 5, 5)
    >>> moved = shift(ones, torch.Generator().manual_seed(0))
    >>> moved.shape == ones.shape, sorted({int(total) for total in moved.sum((1, 2, 3))})
    (True, [9, 12, 15, 16, 20, 25])
    """
    return _moved(x, generator, SHIFT)


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pad each image (n, ..., height, width) with 4 pixels of 0, and crop it to its size at a random place."""
    return _moved(x, generator, CROP)


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (n, ..., height, width) left to right with probability one half."""
    _image(x, "flip")
    chosen = torch.rand(x.shape[0], generator=generator, device=x.device) < 0.5
    return torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Add normal noise of standard deviation 0.1 to each number; columns should have a deviation of about 1."""
    return x + NOISE * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


NAMES: dict[str, Augment] = {"shift": shift, "crop": crop, "flip": flip, "noise": noise}


def find(name: str) -> Augment | None:
    """Return the augmentation with a name: one of `NAMES`, or "module:function"; None for "".

    Raises `ConfigError` for an unknown name.

    >>> find("flip") is flip, find("") is None
    (True, True)
    """
    if name == "" or name in NAMES:
        return NAMES.get(name)
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise AttributeError("the name has no colon")
        found = vars(importlib.import_module(module))[attribute]
    except (ImportError, AttributeError, KeyError) as error:
        raise ConfigError(
            f"memory.augment: got {name!r}; expected one of {', '.join(NAMES)}, or 'module:function'"
            f"{did_you_mean(name, NAMES) or '.'} ({error})"
        ) from error
    if not callable(found):
        raise ConfigError(f"memory.augment: got {name!r}, a {type(found).__name__}; expected a function")
    return cast(Augment, found)


def _image(x: Tensor, name: str) -> None:
    """Raise `ConfigError` unless rows are images."""
    if x.ndim < 3:
        raise ConfigError(
            f"memory.augment: got {name!r} for rows of shape {tuple(x.shape[1:])}; expected images. "
            "Set shape to (height, width) or (channels, height, width)"
        )


def _moved(x: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Return each image cropped at random from itself with `reach` zeros around; windows are views, copied once."""
    _image(x, "shift" if reach == SHIFT else "crop")
    n, height, width = x.shape[0], x.shape[-2], x.shape[-1]
    padded = functional.pad(x, (reach, reach, reach, reach)).view(n, -1, height + 2 * reach, width + 2 * reach)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, channels, down, right, height, width)
    down, right = torch.randint(2 * reach + 1, (2, n), generator=generator, device=x.device)
    rows = torch.arange(n, device=x.device)
    return windows[rows, :, down, right].reshape(x.shape)
