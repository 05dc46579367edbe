"""Seed the global random numbers of PyTorch for one step, as dropout and other layers draw from them."""

from __future__ import annotations

from types import TracebackType

from everlearn._torch import Tensor, torch


class Seeded:
    """A context in which random numbers depend on (seed, step) alone; the global state is restored at its end.

    >>> seeded = Seeded(7, torch.device("cpu"))
    >>> drawn = []
    >>> for step in (1, 2, 1):
    ...     with seeded.by(step):
    ...         drawn.append(float(torch.rand(())))
    >>> drawn[0] == drawn[2], drawn[0] == drawn[1]
    (True, False)
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._gpu = seed, device if device.type == "cuda" else None
        self._before: list[Tensor] = []

    def by(self, step: int) -> Seeded:
        """Return the context for a step."""
        self._mixed = (self._seed * 0x9E3779B1 + step * 0x85EBCA77 + 1) & 0x7FFF_FFFF_FFFF_FFFF
        return self

    def __enter__(self) -> None:
        self._before = [torch.default_generator.get_state()]
        torch.default_generator.manual_seed(self._mixed)
        if self._gpu is not None:
            self._before.append(torch.cuda.get_rng_state(self._gpu))
            with torch.cuda.device(self._gpu):
                torch.cuda.manual_seed(self._mixed)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        torch.default_generator.set_state(self._before[0])
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._before[1], self._gpu)
