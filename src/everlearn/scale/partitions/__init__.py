"""Learners in several processes, one for each partition of a stream, whose models are merged at recorded cursors.

    deal rows -> learn in each partition -> barrier: record the cursors, merge in the order of the partitions -> go on

The rows of a partition are an ordered log. A barrier is a position in each of these logs: every learner has learned its
rows up to there, and all continue from the merged arrays. So the state at a barrier is a function of the logs, of the
recorded cursors and of the spec; which learner was faster does not matter, and a killed one starts again from the last
barrier. `dealing` says which partition a row belongs to, `learner` is one learner in memory, `process` runs one in a
process, and merges and scores there; `shared` holds the arrays that processes exchange, `board` says how far each has
come, and `group` starts them and keeps what must last. How each family is merged is in `everlearn.merge.partitions`;
where rows come from, and what scores them, is the caller's.
"""
