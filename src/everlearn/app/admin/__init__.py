"""Serve every route that is not on the hot path, in one process behind the workers.

Requests that the workers pass on come in; pages, versions, decisions, events, metrics and alerts go out. The process
only reads the log, the blobs, the learner's status and the workers' counters; its one kind of write is a command
appended to the log. `application` builds the server from the table in `app/routes.py`; the predictions themselves are
answered in `app/worker`, and commands are carried out by the learner.
"""
