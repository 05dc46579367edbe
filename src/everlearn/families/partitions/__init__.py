"""How learners of each family are merged that began at the same arrays and then learned different rows.

Each module has `RULES`, the `everlearn.merge.partitions.PartitionRules` of one or more families by name. They know the
meaning of every array: what adds up, what is averaged, and what has an owner. `everlearn.merge.partitions` finds them
by the family of a spec, and has the arithmetic that they share. Learners and processes are in `everlearn.scale`.
"""
