"""The records of `everlearn.families.neural.settings`."""

from everlearn.families.neural.settings import Consolidate, Drift, Lora, Memory, Schedule, Settings

__all__ = ["Consolidate", "Drift", "Lora", "Memory", "Schedule", "Settings"]
