"""Networks that learn in the loop, one pass and task-free, and keep what they knew."""

from everlearn.families.neural.model import Neural, build

__all__ = ["Neural", "build"]
