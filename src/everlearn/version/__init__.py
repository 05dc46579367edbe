"""Keep models as versions: immutable snapshots with parents, and aliases that move.

Arrays and the log's decisions come in; versions, the arrays of each, and the place of every alias go out. The log
itself lives in `events/`, and the reasons why an alias moves in `gate/` and `loop/`.
"""
