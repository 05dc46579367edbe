"""A mix of models of any families, combined by online stacking of what they predict."""

from everlearn.families.mix.model import Mix, build

__all__ = ["Mix", "build"]
