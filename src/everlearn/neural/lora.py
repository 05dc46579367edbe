"""The functions of `everlearn.families.neural.lora`."""

from everlearn.families.neural.lora import adapt, export, factors, fill, load

__all__ = ["adapt", "export", "factors", "fill", "load"]
