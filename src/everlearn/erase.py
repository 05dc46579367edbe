"""Erase a person from the home of a loop: the public door to `everlearn.loop.erase`."""

from everlearn.loop.erase import erase

__all__ = ["erase"]
