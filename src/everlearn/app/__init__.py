"""Serve a loop over HTTP: several processes around one log.

    worker (N of them)   answers /predict, takes /feedback and /learn, appends to the log; never waits for the learner
    learner              reads the log, learns, decides, publishes the models that workers answer with
    admin                pages, versions, decisions, metrics: all other routes

HTTP requests come in; replies, and events of the log, go out. `supervisor` starts the processes and restarts them; they
share the loop's home (log and blobs) and one folder in memory (snapshots, counters, the learner's status). The steps of
the loop live in the rooms beside this one; nothing here learns or decides.
"""
