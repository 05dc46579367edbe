"""Learners in several processes, one for each partition of a stream, whose models are merged at recorded cursors.

    deal rows -> learn in each partition -> barrier: record the cursors, merge in the order of the partitions -> go on

The rows of a partition are an ordered log. A barrier is a position in each of these logs: every learner has learned its
rows up to there, and all continue from the merged arrays. So the state at a barrier is a function of the logs, of the
recorded cursors and of the spec; which learner was faster does not matter, and a killed one starts again from the last
barrier. `dealing` says which partition a row belongs to, `learner` is one learner in memory, `process` runs one in a
process, `group` starts these and merges, `shared` holds the arrays that they exchange. How each family is merged is in
`everlearn.merge.partitions`; where rows come from is the caller's.
"""
