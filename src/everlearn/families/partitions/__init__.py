"""How learners of each family are merged that began at the same arrays and then learned different rows.

Each module has `RULES`, which maps a family to its `everlearn.merge.partitions.PartitionRules`. They know the meaning
of every array: which ones add up, which are averaged, and which have an owner. `everlearn.merge.partitions` finds them
by the family of a spec, and has the arithmetic that they share. Learners and processes are in `everlearn.scale`.
"""
