"""Host thousands of loops in one pool of processes: `everlearn serve FOLDER`.

A folder of loops and requests to `/loops/NAME/...` come in; replies, logs and versions go out, as for a single loop.
`folder` finds the loops and their settings, `learner` is a process that learns a share of them, `host` keeps those in
memory that are in use, `turns` shares its time among them, `wire` carries names between processes, `worker` answers the
hot routes, and `admin` all others. Models, logs and HTTP live elsewhere: a loop here is the loop of `loop/`, tailed as
in `app/learner.py` and answered as in `app/worker/`.
"""
