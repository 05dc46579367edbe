"""Changes of remembered rows that leave their label true, made anew each time they are drawn.

Each is a function of the rows (n, ...) and of a random generator on their device, and gives rows of the same shape.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from everlearn._torch import Tensor, functional, torch
from everlearn.errors import ConfigError

Augment = Callable[[Tensor, torch.Generator], Tensor]

SHIFT, CROP = 2, 4  # pixels
NOISE = 0.1  # standard deviation, in units of what the network is given


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image (n, ..., height, width) by up to 2 pixels in each direction; what is left empty is 0.

    >>> ones = torch.ones(1000, 1, 5, 5)
    >>> moved = shift(ones, torch.Generator().manual_seed(0))
    >>> moved.shape == ones.shape, sorted({int(one) for one in moved.sum((1, 2, 3))})
    (True, [9, 12, 15, 16, 20, 25])
    """
    return _moved(x, generator, SHIFT)


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Put a border of 4 pixels of 0 around each image (n, ..., height, width), and cut its size out anywhere."""
    return _moved(x, generator, CROP)


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every second image (n, ..., height, width), by chance, left to right."""
    _image(x, "flip")
    chosen = torch.rand(x.shape[0], generator=generator, device=x.device) < 0.5
    return torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Add normal noise with a standard deviation of 0.1 to each number; columns should have one of about 1."""
    return x + NOISE * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


NAMES: dict[str, Augment] = {"shift": shift, "crop": crop, "flip": flip, "noise": noise}


def find(name: str) -> Augment | None:
    """The function of this name: one of `NAMES`, or "module:function"; None for "".

    Raises `ConfigError` where there is none.

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
            f"memory.augment is {name!r}, and is not found ({error}); "
            f"expected one of {', '.join(NAMES)}, or 'module:function'"
        ) from error
    if not callable(found):
        raise ConfigError(f"memory.augment is {name!r}, which is a {type(found).__name__}; expected a function")
    return cast(Augment, found)


def _image(x: Tensor, name: str) -> None:
    if x.ndim < 3:
        raise ConfigError(
            f"memory.augment {name!r} got rows of shape {tuple(x.shape[1:])}; expected images: "
            "set shape to (height, width) or (channels, height, width)"
        )


def _moved(x: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Each image cut out of itself in a border of `reach` zeros: windows are views, and one gather makes the copy."""
    _image(x, "shift" if reach == SHIFT else "crop")
    n, height, width = x.shape[0], x.shape[-2], x.shape[-1]
    padded = functional.pad(x, (reach, reach, reach, reach)).view(n, -1, height + 2 * reach, width + 2 * reach)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, channels, down, right, height, width)
    down, right = torch.randint(2 * reach + 1, (2, n), generator=generator, device=x.device)
    rows = torch.arange(n, device=x.device)
    return windows[rows, :, down, right].reshape(x.shape)
